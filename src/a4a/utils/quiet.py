"""Keep the notes of other libraries off the terminal where no user of a4a can act on them.

`drop_import_notes` drops a few that they log while they are imported, for everybody who imports a4a. Each is named by
its logger and a phrase of its text; everything else these libraries log, errors included, passes. `quiet_libraries` is
for commands alone, which have progress bars of their own.
"""

import logging
import os
import warnings

_NOTES = {
    # kernels of torchao that were built for other machines; torchao works without them
    "torchao": ("Failed to load", "Skipping import of cpp extensions"),
    # torchao registers its enums in a way that torch deprecates
    "torch.utils._pytree": ("is an Enum subclass",),
    # a class of torchao that diffusers looks for under an older path
    "diffusers.quantizers.torchao.torchao_quantizer": ("Unable to import `torchao` Tensor objects",),
    # transformers falls back to image processors without torchvision, which a4a must not depend on
    "transformers.utils.import_utils": ("requires torchvision (not installed)",),
}


def drop_import_notes() -> None:
    """Install the filters. Takes no time: it imports none of these libraries."""
    for name, phrases in _NOTES.items():
        logging.getLogger(name).addFilter(lambda record, phrases=phrases: not _mentions(record, phrases))


def quiet_libraries() -> None:
    """For commands: keep the warnings and progress bars of diffusers and transformers off the terminal.

    Call it before anything of theirs is loaded; it imports both libraries.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()


def _mentions(record: logging.LogRecord, phrases: tuple[str, ...]) -> bool:
    return any(phrase in record.getMessage() for phrase in phrases)
