"""The command `a4a`."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
warnings.filterwarnings("ignore", category=FutureWarning)
for library in ("torchao", "torch.utils._pytree"):  # torchao tells everybody which kernels this machine is not made for
    logging.getLogger(library).setLevel(logging.ERROR)

from jsonargparse import ArgumentParser, namespace_to_dict, set_parsing_settings  # noqa: E402

from a4a.errors import InputError  # noqa: E402


class _Parser(ArgumentParser):
    """Says what is wrong with the arguments in one sentence instead of a usage text, and takes no half-written option."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None):  # pyright: ignore[reportIncompatibleMethodOverride]
        text = " ".join(line.strip(" -") for line in str(message).splitlines() if line.strip())
        raise InputError(f"{text} (see {self.prog} --help)")


@dataclass(frozen=True)
class _Command:
    function: Callable[..., Any]
    positional: bool = False
    """Whether what it needs is named by its place: `a4a inspect PATH`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 when it did what was asked, 2 on bad input, 1 where a run failed."""
    import diffusers.utils.logging
    import transformers.utils.logging

    from a4a.training.distributed import shutdown

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()  # of loading weights; a run has its own
    try:
        parser, top, miniature = commands()
        parsed = parser.parse_args(list(arguments) if arguments is not None else None)
        if parsed.subcommand == "transfer" and parsed.transfer.dry_run:
            parsed.transfer.data = parsed.transfer.evaluation = None  # which need not be there
        chosen = namespace_to_dict(parser.instantiate_classes(parsed))  # pyright: ignore[reportArgumentType]
        table, values = top, chosen
        if chosen["subcommand"] == "zoo":
            table, values = miniature, chosen["zoo"]
        name = values["subcommand"]
        table[name].function(**{key: value for key, value in values[name].items() if key != "config"})
        shutdown()
    except InputError as error:
        print(f"a4a: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"a4a: {error}", file=sys.stderr)
        return 1
    return 0


def commands() -> tuple[ArgumentParser, dict[str, _Command], dict[str, _Command]]:
    """The parser, the commands by name, and those of `a4a zoo`."""
    from a4a.baselines import train_x_adapter
    from a4a.cli import zoo
    from a4a.cli.generate import generate
    from a4a.cli.inspect import inspect
    from a4a.data.prepare.run import prepare
    from a4a.evaluation.evaluate import evaluate
    from a4a.experiments.run import experiment
    from a4a.transfer.plan import plan
    from a4a.transfer.run import transfer
    from a4a.web.demo import demo
    from a4a.web.report import report

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(prog="a4a", description="Image-prompt adapters of one diffusion model, made to work on another.")
    subcommands = parser.add_subcommands()
    top = {
        "inspect": _Command(inspect, True),
        "prepare": _Command(prepare),
        "plan": _Command(plan, True),
        "transfer": _Command(transfer),
        "generate": _Command(generate),
        "evaluate": _Command(evaluate),
        "experiment": _Command(experiment),
        "report": _Command(report, True),
        "x-adapter": _Command(train_x_adapter),
        "demo": _Command(demo),
    }
    for name, command in top.items():
        _add(subcommands, name, command)
    group = _Parser(description="The built-in miniature models.")
    subcommands.add_subcommand(
        "zoo", group, help="The built-in miniature models."
    )  # before its own commands, as jsonargparse wants it
    nested = group.add_subcommands()
    miniature = {"build": _Command(zoo.build), "list": _Command(zoo.list_), "show": _Command(zoo.show, True)}
    for name, command in miniature.items():
        _add(nested, name, command)
    return parser, top, miniature


def _add(commands: Any, name: str, command: _Command) -> None:
    said = (command.function.__doc__ or "").split("\n\n")[0].strip()
    parser = _Parser(description=said)
    parser.add_argument("--config", action="config", help="YAML recipe; what stands on the command line comes on top.")
    parser.add_function_arguments(command.function, as_positional=command.positional)
    commands.add_subcommand(name, parser, help=said)


def run() -> None:
    sys.exit(main())
