"""Every command that README, docs and help show is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from a4a.cli.arguments import check_option_names, read_arguments
from a4a.cli.commands import COMMANDS
from a4a.cli.help import find_command
from a4a.cli.main import unneeded
from a4a.utils.arguments import parse_arguments

ROOT = Path(__file__).parents[2]


def shown():
    """Command lines in fenced blocks, and the examples of --help."""
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = file.read_text()
        for block in re.findall(r"```bash\n(.*?)```", text, re.S):
            lines = (re.sub(r"^.* -m a4a ", "a4a ", line) for line in block.replace("\\\n", " ").splitlines())
            yield from (line for line in lines if line.startswith("a4a "))
    yield from (command.example.replace("\\\n", " ") for command in COMMANDS.values())


@pytest.mark.parametrize("line", dict.fromkeys(shown()), ids=lambda line: " ".join(line.split()[:6]))
def test_documented_commands_are_valid(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, words = find_command(shlex.split(line, comments=True)[1:])
    if "--help" in words:
        return
    check_option_names(name, COMMANDS[name], words)
    config = words[words.index("--config") + 1] if "--config" in words else None
    if config is not None and not Path(config).exists():
        return  # a recipe of the reader's own
    function = COMMANDS[name].load()
    settings = read_arguments(name, COMMANDS[name], function, words)
    parse_arguments(function, settings, unneeded(name, settings))
