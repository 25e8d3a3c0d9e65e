"""Check a recipe of `a4a transfer` before anything is trained."""

from typing import Any

import torch

from a4a.adapters.meta import embed_shape, load_meta_adapter
from a4a.backbones.meta import load_meta_model
from a4a.transfer.run import transfer
from a4a.utils.arguments import ParsedArguments, parse_arguments


def check_recipe(settings: dict[str, Any]) -> ParsedArguments:
    """The arguments of `a4a transfer`, typed; InputError, one sentence, where a setting is wrong or missing."""
    return parse_arguments(transfer, settings)


def check_adapter(model: Any, image_encoder: Any, source: Any, method: Any) -> None:
    """Builds a recipe's adapter without weights: InputError where model, source and method do not go together.

    Reads configuration files alone; a source that is not a published one is read whole.
    """
    meta_model, source_adapter = load_meta_model(model), load_meta_adapter(source)
    shape = embed_shape(image_encoder, method.encoder_output(source_adapter), source_adapter)
    with torch.device("meta"):
        method.build(meta_model.backbone, source_adapter, shape[-1])
