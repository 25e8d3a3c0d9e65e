"""Nested settings, as recipes have them: merge two, name a value with dots, suggest the name that was meant."""

from collections.abc import Iterable
from copy import deepcopy
from difflib import get_close_matches
from typing import Any

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
"""How a recipe names a class: where it is, and what its constructor takes."""


def merged(base: dict, changes: dict) -> dict:
    """A copy of `base` with `changes` on top, group by group: what a group does not name stays as it is.

    A change that names a class (a class_path, or a string) replaces the whole group. One that does not name a class
    goes to the init_args of the class that is there.
    """
    result = deepcopy(base)
    for name, value in changes.items():
        below = result.get(name)
        if not isinstance(value, dict) or "class_path" in value or below is None:
            result[name] = deepcopy(value)
        elif isinstance(below, str):  # a class by its name alone
            result[name] = merged({"class_path": below}, _init_args(value))
        elif isinstance(below, dict):
            result[name] = merged(below, _init_args(value) if "class_path" in below else value)
        else:
            result[name] = deepcopy(value)
    return result


def _init_args(group: dict) -> dict:
    return group if not group or any(key in group for key in CLASS_KEYS) else {"init_args": group}


def with_option(settings: dict, name: str, value: Any) -> dict:
    """A copy of `settings` with one value set by its dotted name, such as `training.samples`.

    Names that are there already may have dots of their own ("A4A, 1.5").
    """
    return merged(settings, _nested(settings, name, value))


def _nested(settings: Any, name: str, value: Any) -> dict:
    known = settings if isinstance(settings, dict) else {}
    head = next((k for k in sorted(known, key=len, reverse=True) if name == k or name.startswith(f"{k}.")), None)
    if head is None:
        head = name.partition(".")[0]
    rest = name[len(head) + 1 :]
    return {head: _nested(known.get(head), rest, value) if rest else value}


def flat(settings: dict, prefix: str = "") -> dict[str, Any]:
    """Values by their dotted names, as on the command line."""
    values = {}
    for name, value in settings.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The closest of the known names as the end of a sentence; a full stop where none is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else "."
