"""The command `a4a`. Help and typos are answered from plain data; a command's module is imported when it runs."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from a4a.cli.commands import COMMANDS, Command
from a4a.cli.help import command_help, find_command, group_overview, overview
from a4a.errors import CheckFailed, InputError

HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. 0: done, 1: the run failed, 2: bad input, 130: stopped by Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = ""
    command: Command | None = None
    try:
        if not words or words[0] in HELP:
            print(overview())
        elif words[0] == "--version":
            print(f"a4a {_version()}")
        elif (found := find_command(words)) is None:
            print(group_overview(words[0]))
        else:
            name, rest = found
            command = COMMANDS[name]
            run_command(name, command, rest)
    except InputError as error:
        return _fail(str(error), 2)
    except (CheckFailed, FloatingPointError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _stopped(command, 130)
    except SystemExit as stop:  # of a training loop that was stopped and has saved a checkpoint, or of a parser's help
        if stop.code not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            return 0 if stop.code is None else int(stop.code)
        return _stopped(command, int(stop.code))
    except BrokenPipeError:  # a4a zoo list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from a4a.cli.endings import failure

        if (sentence := failure(name, error)) is None:
            raise
        return _fail(sentence, 1)
    return 0


def run_command(name: str, command: Command, words: list[str]) -> None:
    """Reads a command's options and calls its function."""
    if any(word in HELP for word in words):
        print(command_help(name, command))
        return
    from a4a.cli.arguments import check_option_names, read_arguments
    from a4a.utils.quiet import quiet_libraries

    wants_help = any(word == "--help-all" or word.partition("=")[0].endswith(".help") for word in words)
    if not wants_help:
        check_option_names(name, command, words)
    with _interrupts_exit_at_once(command):
        quiet_libraries()
        function = command.load()
    if wants_help:
        print_full_help(name, command, function, words)
        return
    settings = read_arguments(name, command, function, words)
    from a4a.cli.endings import ending
    from a4a.training.distributed import shutdown
    from a4a.utils.arguments import parse_arguments

    skip = unneeded(name, settings)
    values = parse_arguments(function, settings, skip).build() | dict.fromkeys(skip)
    function(**values)
    shutdown()
    if _is_first_process() and (lines := ending(name, values)):
        print(lines)


def unneeded(name: str, settings: dict[str, Any]) -> tuple[str, ...]:
    """Settings that the command will not read: a dry run uses random data, so the recipe's data need not exist."""
    is_dry_run = name == "transfer" and settings.get("dry_run") not in (None, False, "false")
    return ("data", "evaluation") if is_dry_run else ()


def print_full_help(name: str, command: Command, function: Callable[..., Any], words: list[str]) -> None:
    """Every option with type and default, or those of a class: `a4a transfer --method.help A4AConfig`."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=f"a4a {name}", description=command.summary)
    parser.add_function_arguments(function)
    if "--help-all" in words:
        parser.print_help()
    else:
        parser.parse_args(words)


def run() -> None:
    """The entry point of the command."""
    sys.exit(main())


def _version() -> str:
    from importlib.metadata import version

    return version("a4a")


def _fail(message: str, code: int) -> int:
    print(f"a4a: {message}", file=sys.stderr)
    return code


def _stopped(command: Command | None, code: int) -> int:
    if _is_first_process():
        print(f"a4a: stopped. {command.resume if command else ''}".strip(), file=sys.stderr)
    return code


@contextmanager
def _interrupts_exit_at_once(command: Command) -> Iterator[None]:
    """Ends the process on Ctrl-C while libraries are imported: some turn KeyboardInterrupt into other errors."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(_stopped(command, 130)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_first_process() -> bool:
    """Whether this process speaks for all that a launcher started."""
    return os.environ.get("RANK", "0") == "0"
