"""Help and typos are answered at once, from plain data that says what the commands really take."""

import subprocess
import sys
import time
from dataclasses import is_dataclass

import pytest

from a4a.cli.commands import COMMANDS
from a4a.cli.help import command_help, overview
from a4a.cli.main import main
from a4a.utils.arguments import alternatives, parameters_of

HEAVY = ("torch", "diffusers", "transformers", "jsonargparse", "numpy")
SCRIPT = f"""
import sys
from a4a.cli.main import main
code = main(sys.argv[1:])
print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def in_a_process(*words):
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=False)
    return done, time.perf_counter() - began


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["transfer", "--help"], 0),
        (["zoo", "list", "--help"], 0),
        (["tranfer"], 2),
    ],
)
def test_help_and_a_mistyped_command_import_no_library(words, code):
    done, seconds = in_a_process(*words)
    assert done.returncode == code and done.stderr.splitlines()[-1] == "[]"
    assert seconds < 3  # 0.1 on an idle machine; torch alone takes longer than that


def test_a_mistyped_option_imports_neither_torch_nor_diffusers():
    done, _ = in_a_process("generate", "--promt", "x")
    assert done.returncode == 2 and "torch" not in done.stderr.splitlines()[-1]
    assert "did you mean --prompt?" in done.stderr


@pytest.mark.parametrize(
    ("words", "meant"), [(["tranfer"], "transfer"), (["zoo", "lst"], "zoo list"), (["evalute", "--x"], "evaluate")]
)
def test_a_mistyped_command_is_one_sentence_with_the_closest_name(words, meant, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"did you mean {meant}?" in error


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_fits_a_screen_and_has_an_example(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.strip() == command_help(name, COMMANDS[name])
    assert len(text.splitlines()) <= 50 and max(map(len, text.splitlines())) <= 110
    assert f"example:\n  a4a {name}" in text


def test_the_overview_names_every_command_and_fits_a_screen(capsys):
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        assert capsys.readouterr().out.strip() == overview()
    assert main(["zoo"]) == 0 and "build" in capsys.readouterr().out
    assert len(overview().splitlines()) <= 50
    assert all(f"\n  {name.split()[0]} " in overview() for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_what_its_function_takes(name):
    """A parameter was added or renamed: say so in src/a4a/cli/commands.py."""
    command = COMMANDS[name]
    function = command.load()
    _, parameters = parameters_of(function)
    assert command.parameters | ({command.positional} - {None}) == set(parameters)
    required = {n for n, p in parameters.items() if p.default is p.empty}
    assert required <= command.parameters - set(command.others) | {command.positional}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_groups_in_the_help_have_the_options_that_it_names(name):
    for option in COMMANDS[name].options:
        path = option.split()[0].removeprefix("--").split(".")
        holder = COMMANDS[name].load()
        for part in path if len(path) > 1 else ():
            hints, parameters = parameters_of(holder)
            assert part in parameters, option
            (kind,) = alternatives(hints[part])
            if not is_dataclass(kind):
                break  # a class of the user's choice, or names of the user's own
            holder = kind


def test_version_prints_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("a4a 0.")
