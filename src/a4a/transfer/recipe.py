"""Check a recipe of `a4a transfer` before anything is trained."""

from typing import Any

from a4a.backbones.meta import load_meta_model
from a4a.transfer.meta import build_meta_adapter
from a4a.transfer.run import transfer
from a4a.utils.arguments import ParsedArguments, parse_arguments


def check_recipe(settings: dict[str, Any]) -> ParsedArguments:
    """The arguments of `a4a transfer`, typed; InputError, one sentence, where a setting is wrong or missing."""
    return parse_arguments(transfer, settings)


def check_adapter(model: Any, image_encoder: Any, source: Any, method: Any, init: Any = None) -> None:
    """Builds a recipe's adapter without weights: InputError where model, source, method and init do not go together.

    Reads configuration files alone; a source that is not a published one is read whole.
    """
    build_meta_adapter(method, load_meta_model(model).backbone, source, image_encoder, init)
