"""Drop a few notes that other libraries log while they are imported and that no user of a4a can act on.

Each is named by its logger and a phrase of its text. Everything else these libraries log, errors included, passes.
"""

import logging

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


def _mentions(record: logging.LogRecord, phrases: tuple[str, ...]) -> bool:
    return any(phrase in record.getMessage() for phrase in phrases)
