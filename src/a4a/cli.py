"""The command `a4a`."""

import os
import sys
import warnings
from collections.abc import Sequence

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
warnings.filterwarnings("ignore", category=FutureWarning)

from jsonargparse import ArgumentParser, auto_cli, set_parsing_settings  # noqa: E402

from a4a.errors import InputError  # noqa: E402


class _Parser(ArgumentParser):
    """Says what is wrong with the arguments in one sentence instead of a usage text."""

    def error(self, message: str, ex: Exception | None = None):  # pyright: ignore[reportIncompatibleMethodOverride]
        text = " ".join(line.strip(" -") for line in str(message).splitlines() if line.strip())
        raise InputError(f"{text} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 when it did what was asked, 2 on bad input, 1 where a run failed."""
    from a4a.demo import demo
    from a4a.generate import generate
    from a4a.inspection import inspect
    from a4a.transfer import transfer
    from a4a.zoo import commands as zoo

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    components = {
        "inspect": inspect,
        "transfer": transfer,
        "generate": generate,
        "demo": demo,
        "zoo": {"_help": "The built-in miniature models.", "build": zoo.build, "list": zoo.list_, "show": zoo.show},
    }
    try:
        auto_cli(components, args=list(arguments) if arguments is not None else None, parser_class=_Parser, prog="a4a", as_positional=True)
    except InputError as error:
        print(f"a4a: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"a4a: {error}", file=sys.stderr)
        return 1
    return 0


def run() -> None:
    sys.exit(main())
