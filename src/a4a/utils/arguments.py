"""From plain values (YAML, the command line) to the typed arguments of a function.

jsonargparse converts the values and makes the objects. Before it does, `normalize` checks names: its errors say in one
sentence which entry is wrong, what was found, and what was expected. `explain` does so for the errors of jsonargparse.
"""

import inspect
import re
import types
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace, get_loader

from a4a.errors import InputError, first_line
from a4a.utils.settings import CLASS_KEYS, did_you_mean

PLAIN = (str, int, float, bool, bytes, Path, dict, list, tuple, set, type(None))
"""Types whose values are written as such; a recipe names any other class by class_path."""


@dataclass(frozen=True)
class ParsedArguments:
    """Checked arguments of a function; the objects that they name are not made yet."""

    parser: ArgumentParser
    namespace: Namespace

    def build(self, only: Collection[str] | None = None) -> dict[str, Any]:
        """The arguments to call the function with, or some of them. What the classes raise for bad values is raised."""
        chosen = {n: value for n, value in vars(self.namespace).items() if only is None or n in only}
        built = vars(self.parser.instantiate_classes(Namespace(**chosen)))
        return {name: built[name] for name in chosen}


def parse_arguments(function: Callable, settings: dict[str, Any], skip: Collection[str] = ()) -> ParsedArguments:
    """Checks settings as arguments of a function; those to `skip` are left out, whatever they are.

    Raises InputError, one sentence, where a setting is wrong or missing.
    """
    settings = {name: value for name, value in settings.items() if name not in skip}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(function, skip=set(skip))
    try:
        return ParsedArguments(parser, parser.parse_object(normalize(function, settings, skip)))
    except InputError:
        raise
    except Exception as error:
        raise InputError(explain(str(error))) from error


def normalize(function: Callable, settings: dict[str, Any], skip: Collection[str] = ()) -> dict[str, Any]:
    """Settings with every shorthand written out; InputError for unknown names, missing arguments, unknown classes.

    Shorthands: a class by its name alone, and a path where a class has `folder_class` (`data: runs/my-data`).
    """
    return _check_call(function, settings, "", skip)


def read_recipe(file: Path | str) -> dict[str, Any]:
    """The settings in a YAML file; InputError where there are none."""
    try:
        settings = get_loader("yaml")(Path(file).read_text())
    except FileNotFoundError as error:
        raise InputError(f"There is no recipe {file}; give a YAML file.") from error
    except Exception as error:  # whatever the YAML parser has against it
        raise InputError(f"The recipe {file} cannot be read ({first_line(error)}); give a YAML file.") from error
    if not isinstance(settings, dict):
        raise InputError(f"The recipe {file} holds {type(settings).__name__}, not options with values; see recipes/.")
    return settings


# --- names: what a function or class takes -------------------------------------------------------------------------


def _check_call(callable_: Callable, settings: dict[str, Any], path: str, skip: Collection[str] = ()) -> dict[str, Any]:
    """Checks what a function or class is called with; `path` is where the settings stand, empty for the outermost."""
    hints, parameters = parameters_of(callable_)
    taken = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    taken = {n: p for n, p in taken.items() if n not in skip}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    who = f"{path} ({callable_.__name__}) " if path else ""
    for key in settings:
        if key not in taken and not takes_any:
            raise InputError(f"{who or 'There is '}{'has ' if path else ''}no option {key}{did_you_mean(key, taken)}")
    checked = {
        key: _check_value(hints.get(key, Any), value, _join(path, key), taken[key].default if key in taken else None)
        for key, value in settings.items()
    }
    missing = [n for n, p in taken.items() if p.default is p.empty and n not in settings]
    if missing and path:
        raise InputError(f"{who}needs {' and '.join(missing)}; add {'it' if len(missing) == 1 else 'them'} there.")
    if missing:
        options, verb = " and ".join(f"--{n}" for n in missing), "is" if len(missing) == 1 else "are"
        raise InputError(f"{options} {verb} missing; give a value here or in the recipe.")
    return checked


def parameters_of(callable_: Callable) -> tuple[dict[str, Any], dict[str, inspect.Parameter]]:
    """Type hints and parameters of a function, or of a class's constructor."""
    function = callable_.__init__ if inspect.isclass(callable_) else callable_
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):  # annotations that only jaxtyping can read
        hints = {}
    return hints, dict(inspect.signature(callable_).parameters)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# --- values ----------------------------------------------------------------------------------------------------------


def _check_value(hint: Any, value: Any, path: str, default: Any = None) -> Any:
    """A value of a type with what is inside it; what is of a plain type is left to jsonargparse."""
    if value is None:
        return None
    options = alternatives(hint)
    classes = [option for option in options if _is_class(option)]
    if len(classes) == 1:
        return _check_class(classes[0], value, path, default)
    for option in options:
        inner = get_args(option)
        if get_origin(option) is dict and isinstance(value, dict) and len(inner) == 2:
            return {key: _check_value(inner[1], entry, _join(path, str(key))) for key, entry in value.items()}
        if get_origin(option) is list and isinstance(value, list) and inner:
            return [_check_value(inner[0], entry, f"{path}[{i}]") for i, entry in enumerate(value)]
    return value


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union but None; the type itself where it is none."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(option for option in get_args(hint) if option is not type(None))
    return (hint,)


def _is_class(hint: Any) -> bool:
    """Whether values are objects that a recipe describes."""
    kind = get_origin(hint) or hint
    return (
        inspect.isclass(kind) and kind not in PLAIN and kind.__module__ not in ("builtins", "typing", "collections.abc")
    )


def _check_class(hint: Any, value: Any, path: str, default: Any) -> Any:
    base = get_origin(hint) or hint
    if isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")):
        return value  # a file with the group's settings, which jsonargparse reads
    if not isinstance(value, str | dict):
        return value
    if isinstance(value, dict) and "class_path" not in value:  # for the class itself, or for that of the default
        kind = type(default) if isinstance(default, base) else base
        if inspect.isabstract(kind):
            names = ", ".join(sorted(_concrete(base)))
            raise InputError(f"{path} names no class; add class_path: one of {names}, or any other by its whole path.")
        return _check_call(kind, value, path)
    kind, value = named_class(base, value, path)
    if unknown := next((key for key in value if key not in CLASS_KEYS), None):
        raise InputError(f"{path} has {unknown} beside its class_path; put it into init_args: {{{unknown}: ...}}.")
    return value | {"init_args": _check_call(kind, value.get("init_args") or {}, path)}


def named_class(base: type, value: str | dict[str, Any], path: str) -> tuple[type, dict[str, Any]]:
    """The class that a setting names, and the setting as class_path and init_args; InputError where it names none.

    Args:
        base: what the class must be a subclass of.
        value: a class_path or the name of a known subclass, alone or with init_args, or a path where `base` has a
            `folder_class`, the class that reads such a folder.
        path: where the setting stands, for errors.
    """
    value = {"class_path": value} if isinstance(value, str) else value
    name = str(value["class_path"])
    folder_class = getattr(base, "folder_class", None)
    if folder_class and ("/" in name or Path(name).is_dir()):
        init_args = {"path": name, **(value.get("init_args") or {})}
        value, name = value | {"class_path": folder_class, "init_args": init_args}, folder_class
    known = _concrete(base)
    kind = known.get(name) or _imported(name)
    if kind is None:
        raise InputError(
            f"{path} names the class {name!r}, which does not exist{did_you_mean(name.rpartition('.')[2], known)} "
            f"Known: {', '.join(sorted(known))}; any other by its whole path (package.module.Class)."
        )
    if not getattr(base, "_is_protocol", False) and not issubclass(kind, base):
        raise InputError(f"{path} is a {kind.__name__}; expected a {base.__name__}: {', '.join(sorted(known))}.")
    return kind, value


def _imported(name: str) -> type | None:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute, None) if module else None
    except ImportError:
        return None
    return found if inspect.isclass(found) else None


def _concrete(base: type) -> dict[str, type]:
    """The classes that stand for a base class and are imported, by name."""
    return {kind.__name__: kind for kind in [*_subclasses(base), base] if not inspect.isabstract(kind)}


def _subclasses(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        yield kind
        yield from _subclasses(kind)


# --- errors of jsonargparse ------------------------------------------------------------------------------------------

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "Path": "a path",
    "NoneType": "null",
    "dict": "a group of settings",
    "list": "a list",
}


def explain(message: str) -> str:
    """An error of jsonargparse as one sentence: the option, what was found, what was expected."""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    expected = list(
        dict.fromkeys(_type_name(t) for t in re.findall(r"Expected an? (.+?)(?:\. Got value|\n|$)", message))
    )
    found = re.findall(r"(?:Got value|Given value): (.*)", message)
    if keys and expected and found and "Namespace(" not in found[0]:
        name = ".".join(dict.fromkeys(keys))
        return f"{name} is {found[0].strip()!r}; expected {' or '.join(expected)}."
    lines = [line.strip(" -") for line in message.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("Given value", "Subtypes:")))


def _type_name(text: str) -> str:
    if literal := re.match(r"typing\.Literal\[(.*)\]", text):
        return "one of " + literal[1].replace("'", "")
    name = re.sub(r"<(?:class|enum) '(.*)'>", r"\1", text).rpartition(".")[2]
    return _TYPES.get(name, name)
