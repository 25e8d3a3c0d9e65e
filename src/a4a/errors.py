"""The one exception that the command turns into a sentence and exit code 2."""


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one sentence: the file or field, what was found, what was expected, what to do.
    """
