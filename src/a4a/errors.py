"""The exceptions that the command turns into a sentence: exit code 2 for bad input, 1 for a check that failed."""


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one sentence: the file or field, what was found, what was expected, what to do.
    """


class CheckFailed(RuntimeError):
    """A check found something else than it expected.

    The message says what was found, what was expected, and what to look at.
    """


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
