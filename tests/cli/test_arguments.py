"""Words of a command line become settings on top of a recipe."""

from pathlib import Path

import pytest

from a4a.cli.arguments import read_arguments
from a4a.cli.commands import COMMANDS, Command
from a4a.errors import InputError

COMMAND = Command("x:y", "", {}, "", config="recipe")
PLACED = Command("x:y", "", {}, "", positional="path")


def function(
    image: list[Path],
    prompt: list[str],
    seeds: list[int],
    recipe: dict,
    variants: dict[str, dict],
    steps: int | None = None,
    title: str = "",
    resume: bool = False,
    dry_run: bool | int = False,
    ray: bool | str = False,
) -> None: ...


def placed(path: str, json: bool = False, count: int = 1) -> None: ...


def read(*words, command=COMMAND, of=function):
    return read_arguments("command", command, of, list(words))


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--image", "a.png", "b.png"], {"image": ["a.png", "b.png"]}),
        (["--image", "[a.png, b.png]"], {"image": ["a.png", "b.png"]}),
        (["--image=a.png"], {"image": ["a.png"]}),
        (["--prompt", "a dog on a beach"], {"prompt": ["a dog on a beach"]}),
        (["--prompt", "2024", "a: b"], {"prompt": ["2024", "a: b"]}),
        (["--prompt", '["a dog, wet", x]'], {"prompt": ["a dog, wet", "x"]}),
        (["--prompt", "[photo] of a dog"], {"prompt": ["[photo] of a dog"]}),
        (["--seeds", "1", "2"], {"seeds": [1, 2]}),
        (["--resume"], {"resume": True}),
        (["--resume", "--title", "x"], {"resume": True, "title": "x"}),
        (["--resume", "false"], {"resume": "false"}),
        (["--dry_run", "512"], {"dry_run": "512"}),
        (["--dry_run"], {"dry_run": True}),
        (["--ray", "ray://head:10001"], {"ray": "ray://head:10001"}),
        (["--steps", "null"], {"steps": None}),
        (["--title", "[x"], {"title": "[x"}),
        (["--recipe.training.samples", "160"], {"recipe": {"training": {"samples": 160}}}),
    ],
)
def test_options_become_settings(words, settings):
    assert read(*words) == settings


def test_a_flag_does_not_take_the_positional_word_after_it():
    assert read("--json", "zoo:x", command=PLACED, of=placed) == {"json": True, "path": "zoo:x"}
    assert read("zoo:x", "--count", "3", command=PLACED, of=placed) == {"path": "zoo:x", "count": "3"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "3", "4"], "'4'"),
        (["--steps"], "--steps needs a value"),
        (["stray"], "'stray'"),
        (["--config", "gone.yaml"], "gone.yaml"),
    ],
)
def test_unknown_words_are_refused(words, told):
    with pytest.raises(InputError, match=told):
        read(*words)


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "recipe: {training: {samples: 2400, batch_size: 32, schedule: cosine}, method: IPAdapterConfig}\n"
        "variants: {A4A: {}, 'rate 1.5': {training: {seed: 1}}}\n"
    )
    return ["--config", str(file)]


def test_overrides_keep_what_else_is_in_a_group(recipe):
    words = ["--recipe.training.samples", "160", "--recipe.training.seed", "3", "--recipe.method.tokens", "8"]
    settings = read(*recipe, *words)["recipe"]
    assert settings["training"] == {"samples": 160, "batch_size": 32, "schedule": "cosine", "seed": 3}
    assert settings["method"] == {"class_path": "IPAdapterConfig", "init_args": {"tokens": 8}}


def test_overrides_reach_the_variant_that_they_name(recipe):
    variants = read(*recipe, "--variants.A4A.method.rounds", "1", "--variants.rate 1.5.training.samples", "8")[
        "variants"
    ]
    assert variants == {"A4A": {"method": {"rounds": 1}}, "rate 1.5": {"training": {"seed": 1, "samples": 8}}}


def test_a_second_recipe_comes_on_top_of_the_first(recipe, tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text("recipe: {training: {samples: 8}}")
    training = read(*recipe, "--config", str(more))["recipe"]["training"]
    assert training == {"samples": 8, "batch_size": 32, "schedule": "cosine"}


def test_an_override_of_no_variant_is_refused(recipe):
    with pytest.raises(InputError, match=r"no variants\.A4a; its variants are A4A, rate 1\.5"):
        read(*recipe, "--variants.A4a.method.rounds", "1")


def test_a_command_without_what_it_is_about_says_what_that_is():
    for name, what in (("inspect", "needs a PATH .adapter file or folder"), ("plan", "needs a RECIPE .YAML file")):
        command = COMMANDS[name]
        with pytest.raises(InputError, match=rf"a4a {name} {what}.*; for example: a4a {name} "):
            read_arguments(name, command, command.load(), [])


def test_a_plan_takes_its_recipe_as_positional_or_by_config():
    from a4a.transfer.plan import plan

    for words in (["r.yaml"], ["--config", "r.yaml"], ["--recipe", "r.yaml"]):
        assert read(*words, "--gpu", "24", command=COMMANDS["plan"], of=plan) == {"recipe": "r.yaml", "gpu": "24"}
