"""The one exception that the command turns into a sentence and exit code 2."""


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one sentence: the file or field, what was found, what was expected, what to do.
    """


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
