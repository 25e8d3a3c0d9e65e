"""The texts of `a4a --help`, `a4a zoo --help` and `a4a COMMAND --help`, and the suggestion for a mistyped command."""

import textwrap

from a4a.cli.commands import COMMANDS, Command
from a4a.errors import InputError
from a4a.utils.settings import did_you_mean

WIDTH = 108
GROUPS = {"zoo": "The built-in miniature models."}
EXAMPLES = """examples:
  a4a demo                      a transfer in miniature, live: open demo/index.html
  a4a zoo list                  the built-in miniature models
  a4a generate --adapter zoo:a4a-plus-pixart-mini --model zoo:pixart-mini --image photo.png \\
      --prompt "a small creature in the snow" --output pictures"""


def overview() -> str:
    """`a4a --help`."""
    rows = {name: command.summary for name, command in COMMANDS.items() if " " not in name} | GROUPS
    return "\n\n".join(
        (
            "usage: a4a COMMAND [OPTIONS]",
            "Image-prompt adapters of one diffusion model, made to work on another.",
            "commands:\n" + _columns(rows, 12),
            EXAMPLES,
            "a4a COMMAND --help tells what a command takes; a4a --version the version.",
        )
    )


def group_overview(group: str) -> str:
    """`a4a zoo --help`."""
    rows = {name.split()[1]: c.summary for name, c in COMMANDS.items() if name.startswith(f"{group} ")}
    return f"usage: a4a {group} COMMAND [OPTIONS]\n\n{GROUPS[group]}\n\ncommands:\n{_columns(rows, 12)}"


def command_help(name: str, command: Command) -> str:
    """`a4a COMMAND --help`."""
    positional = f" {command.positional.upper()}" if command.positional else ""
    parts = [
        f"usage: a4a {name}{positional} [OPTIONS]",
        textwrap.fill(command.summary, WIDTH),
        "options:\n" + _columns(command.options, 2 + max(map(len, command.options))),
        f"example:\n  {command.example}",
        f"All options with types and defaults: a4a {name} --help-all",
    ]
    return "\n\n".join(parts)


def find_command(words: list[str]) -> tuple[str, list[str]] | None:
    """The command that the words begin with, and the words after it; None where they ask for an overview."""
    head = words[0]
    if head in GROUPS:
        if len(words) == 1 or words[1] in ("-h", "--help"):
            return None
        head = f"{head} {words[1]}"
    if head not in COMMANDS:
        group = words[0] if words[0] in GROUPS else ""
        known = [n for n in (*COMMANDS, *GROUPS) if n.startswith(group)]
        raise InputError(
            f"There is no command a4a {head}{did_you_mean(head, known)} See a4a {group} --help.".replace("  ", " ")
        )
    return head, words[len(head.split()) :]


def _columns(rows: dict[str, str], width: int) -> str:
    width = min(max(width, 12), 34)
    return "\n".join(
        textwrap.fill(
            text,
            WIDTH,
            initial_indent=f"  {name:{width}}" if len(name) < width else f"  {name}\n  {'':{width}}",
            subsequent_indent=" " * (width + 2),
        )
        for name, text in rows.items()
    )
