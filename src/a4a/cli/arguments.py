"""From the words of a command line to the settings of a command: options on top of a recipe.

--config recipe.yaml            the recipe, to which the rest is added
--training.samples 160          one value by its dotted name; its group keeps its other values
--image a.png b.png             several values where a list is expected, or one that is a YAML list: [a.png, b.png]
--resume                        true
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from jsonargparse import get_loader

from a4a.cli.commands import COMMANDS, Command
from a4a.errors import InputError
from a4a.utils.arguments import alternatives, parameters_of, read_recipe
from a4a.utils.settings import did_you_mean, merged, with_option

BOOLEANS = ("true", "false", "yes", "no")


def check_option_names(name: str, command: Command, words: list[str]) -> None:
    """InputError for an option that the command does not have; imports nothing, so a typo is reported at once."""
    known = command.parameters | ({"config"} if command.config else set())
    if command.overrides:
        known |= COMMANDS[command.overrides].parameters
    for word in words:
        option = word[2:].partition("=")[0].partition(".")[0]
        if word.startswith("--") and option not in known:
            raise InputError(
                f"a4a {name} has no option --{option}{did_you_mean(option, known, '--')} See a4a {name} --help."
            )


def read_arguments(name: str, command: Command, function: Any, words: list[str]) -> dict[str, Any]:
    """The settings that a command line gives to the function of a command."""
    hints, parameters = parameters_of(function)
    if command.overrides:
        hints = parameters_of(COMMANDS[command.overrides].load())[0] | hints
    options, positionals = _split(name, words, hints)
    settings: dict[str, Any] = {}
    for option, raw in options:
        if option == "config" and command.config == "recipe":
            for file in raw:
                recipe = read_recipe(file)
                settings = merged(settings, {n: value for n, value in recipe.items() if n not in command.ignores})
        elif option == "config" and command.config == "positional":
            positionals += raw
    for option, raw in options:
        if option != "config":
            _check_entry(option, hints, settings)
            is_own = not command.overrides or option.partition(".")[0] in parameters
            settings = with_option(
                settings, option if is_own else f"changes.{option}", _value(raw, _hint(option, hints))
            )
    if len(positionals) > (1 if command.positional else 0):
        extra = positionals[-1]
        raise InputError(
            f"a4a {name} does not know what {extra!r} is for; options begin with --. See a4a {name} --help."
        )
    if positionals and command.positional:
        settings[command.positional] = positionals[0]
    if command.positional and command.positional not in settings:
        _check_positional(name, command, parameters[command.positional])
    return settings


def _check_positional(name: str, command: Command, parameter: inspect.Parameter) -> None:
    """InputError where the parameter that needs no option was not given but has no default."""
    if parameter.default is parameter.empty:
        placeholder = parameter.name.upper()
        what = next(text for option, text in command.options.items() if option.endswith(f" {placeholder}"))
        raise InputError(f"a4a {name} needs a {placeholder} ({what}); for example: {command.example}")


def _split(name: str, words: list[str], hints: dict[str, Any]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Options with the words that follow them, as many as their type takes; and the words that belong to none."""
    options, positionals, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            positionals.append(word)
            continue
        option, equals, value = word[2:].partition("=")
        if equals:
            options.append((option, [value]))
            continue
        following = list(_values(rest, _hint(option, hints)))
        del rest[: len(following)]
        if not following and not _is_flag(_hint(option, hints)):
            raise InputError(f"--{option} needs a value; see a4a {name} --help.")
        options.append((option, following))
    return options, positionals


def _values(rest: list[str], hint: Any) -> Iterator[str]:
    """The words in front of the next option that are values of this one."""
    kinds = alternatives(hint)
    takes_many = hint is Any or any(get_origin(kind) is list for kind in kinds)
    is_flag = bool in kinds and str not in kinds
    for i, word in enumerate(rest):
        if word.startswith("--") or (i and not takes_many):
            return
        if is_flag and word.lower() not in BOOLEANS and not (int in kinds and word.isdigit()):
            return
        yield word


def _hint(option: str, hints: dict[str, Any]) -> Any:
    """The type of an option where the command line must know it: of the function's own parameters, else Any."""
    head, _, rest = option.partition(".")
    hint = hints.get(head, Any)
    for name in rest.split(".") if rest else ():
        kinds = alternatives(hint)
        if kinds[0] is dict or get_args(kinds[0])[1:] == (dict,):
            return dict
        inner = parameters_of(kinds[0])[0] if len(kinds) == 1 and hasattr(kinds[0], "__dataclass_fields__") else {}
        hint = inner.get(name, Any)
    return hint


def _is_flag(hint: Any) -> bool:
    return hint is Any or bool in alternatives(hint)


def _value(raw: list[str], hint: Any) -> Any:
    """The words of an option as a value. Numbers stay words: jsonargparse knows what each is to be."""
    if not raw:
        return True
    kinds = alternatives(hint)
    listed = next((kind for kind in kinds if get_origin(kind) is list), None)
    if listed is not None:
        whole = _loaded(raw[0]) if len(raw) == 1 and raw[0].startswith("[") else None
        is_text = get_args(listed)[0] in (str, Path)
        return whole if isinstance(whole, list) else list(raw) if is_text else [_loaded(word) for word in raw]
    if len(raw) > 1:
        return [_loaded(word) for word in raw]
    if raw[0] == "null":
        return None
    is_yaml = hint is dict or (raw[0][:1] in ("[", "{") and str not in kinds and Path not in kinds)
    return _loaded(raw[0]) if is_yaml else raw[0]


def _loaded(word: str) -> Any:
    """A word read as YAML; unchanged where it is not valid YAML."""
    try:
        return get_loader("yaml")(word)
    except Exception:  # the YAML parser's errors have no common class
        return word


def _check_entry(option: str, hints: dict[str, Any], settings: dict[str, Any]) -> None:
    """InputError for an option of an entry that the recipe does not have, where a new one would be a mistake."""
    head, _, rest = option.partition(".")
    if rest and get_args(hints.get(head, Any))[1:] == (dict,):
        known = settings.get(head) or {}
        if not any(rest == entry or rest.startswith(f"{entry}.") for entry in known):
            raise InputError(
                f"The recipe has no {head}.{rest.partition('.')[0]}; its {head} are {', '.join(known) or 'none'}."
            )
