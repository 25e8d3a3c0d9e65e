"""Values become typed arguments, and every mistake is one sentence in the words of a recipe."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from a4a.errors import InputError
from a4a.utils.arguments import normalize, parse_arguments


@dataclass
class Rates:
    mapping: float = 1e-3


@dataclass
class Training:
    samples: int = 10
    schedule: Literal["constant", "cosine"] = "constant"
    rates: Rates = field(default_factory=Rates)


class Animal(ABC):
    folder_class = f"{__name__}.Dog"

    @abstractmethod
    def move(self) -> None: ...


class Dog(Animal):
    def __init__(self, path: Path, legs: int = 4):
        self.path, self.legs = path, legs

    def move(self) -> None: ...


class Fish(Animal):
    def move(self) -> None: ...


def function(
    output: Path,
    animal: Animal | None = None,
    animals: list[Animal] = [],  # noqa: B006
    named: dict[str, Animal] = {},  # noqa: B006
    training: Training = Training(),
    count: int | None = None,
    resume: bool = False,
) -> None: ...


def test_values_become_objects():
    values = {"output": "x", "count": "3", "resume": "true", "training": {"rates": {"mapping": "1e-2"}}}
    values |= {"animal": {"class_path": "Dog", "init_args": {"path": "here", "legs": "3"}}, "animals": ["Fish"]}
    built = parse_arguments(function, values).build()
    assert (built["output"], built["count"], built["resume"]) == (Path("x"), 3, True)
    assert built["training"] == Training(rates=Rates(1e-2))
    assert (built["animal"].path, built["animal"].legs) == (Path("here"), 3) and isinstance(built["animals"][0], Fish)


def test_a_path_stands_for_the_class_that_reads_such_a_folder():
    settings = normalize(function, {"output": "x", "animal": "runs/my-dog"})
    assert settings["animal"] == {"class_path": Animal.folder_class, "init_args": {"path": "runs/my-dog"}}
    more = normalize(function, {"output": "x", "animal": {"class_path": "runs/my-dog", "init_args": {"legs": 3}}})
    assert more["animal"]["init_args"] == {"path": "runs/my-dog", "legs": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--output is missing"),
        ({"output": "x", "trainin": {}}, "no option trainin; did you mean training?"),
        ({"output": "x", "training": {"sample": 3}}, "training (Training) has no option sample; did you mean samples?"),
        ({"output": "x", "training": {"samples": "many"}}, "training.samples is 'many'; expected a whole number."),
        (
            {"output": "x", "training": {"schedule": "fast"}},
            "training.schedule is 'fast'; expected one of constant, cosine.",
        ),
        ({"output": "x", "count": "many"}, "count is 'many'; expected a whole number or null."),
        ({"output": "x", "animals": ["Fish", "Dog"]}, "animals[1] (Dog) needs path"),
        ({"output": "x", "named": {"rex": {"class_path": "Dog"}}}, "named.rex (Dog) needs path"),
        ({"output": "x", "named": {"rex": {"legs": 3}}}, "named.rex names no class; add class_path: one of Dog, Fish"),
        ({"output": "x", "animal": "Dgo"}, "animal names the class 'Dgo', which does not exist; did you mean Dog?"),
        ({"output": "x", "animal": "a4a.errors.InputError"}, "animal is a InputError; expected a Animal"),
        ({"output": "x", "animal": {"class_path": "Dog", "legs": 3}}, "put it into init_args: {legs: ...}"),
        (
            {"output": "x", "animal": {"class_path": "Dog", "init_args": {"path": "x", "legs": "all"}}},
            "animal.legs is 'all'; expected a whole number",
        ),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_entry(settings, message):
    with pytest.raises(InputError) as error:
        parse_arguments(function, settings)
    assert message in str(error.value) and "Namespace" not in str(error.value) and "\n" not in str(error.value)
