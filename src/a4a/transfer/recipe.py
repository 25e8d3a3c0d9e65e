"""From YAML to the typed arguments of `a4a transfer`."""

from copy import deepcopy
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from a4a.errors import InputError
from a4a.transfer.run import transfer


def merged(below: dict, above: dict) -> dict:
    """What stands above replaces what is below, group by group; a class_path replaces its whole group."""
    both = deepcopy(below)
    for name, value in above.items():
        nested = isinstance(value, dict) and isinstance(both.get(name), dict) and "class_path" not in value
        both[name] = merged(both[name], value) if nested else deepcopy(value)
    return both


def flat(arguments: dict, prefix: str = "") -> dict[str, Any]:
    """Names with dots, as on the command line."""
    values = {}
    for name, value in arguments.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def checked(arguments: dict[str, Any]) -> tuple[ArgumentParser, Namespace]:
    """The arguments of `a4a transfer`, typed, and what makes objects of them; InputError where they are none."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(transfer)
    try:
        return parser, parser.parse_object(arguments)
    except Exception as error:
        text = " ".join(line.strip(" -") for line in str(error).splitlines() if line.strip())
        raise InputError(f"The experiment's recipe is no transfer: {text}") from error
