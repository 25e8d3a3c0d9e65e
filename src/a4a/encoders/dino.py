"""DINO image encoder: the class token of a vision transformer trained without labels."""

from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_model

BASE = "facebook/dinov2-base"
KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")
"""Model types whose first token is the class token."""


@cache
def _load(model: str, device: str):
    name, folder = resolve_model(model, "DINO model")
    try:
        config = AutoConfig.from_pretrained(name, **folder)
        if config.model_type not in KINDS:
            raise InputError(
                f"{model} is a model of type {config.model_type}; the DINO score takes {', '.join(KINDS)}, such as {BASE}."
            )
        options = {"add_pooling_layer": False} if config.model_type == "vit" else {}
        found = AutoModel.from_pretrained(name, **folder, **options, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(name, **folder, backend="pil")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model} could not be loaded as a DINO model with its preprocessing ({first_line(error)}); give its hub name."
        ) from error
    return found.to(device).eval().requires_grad_(False), processor


class DINO:
    """The class token of a DINO vision transformer.

    Args:
        model: hub name or folder of a DINO, DINOv2 or DINOv3 model; `facebook/dino-vits16` is what DreamBooth's DINO score uses.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = BASE, device: str | None = None):
        resolve_model(model, "DINO model")
        self.model, self.device = model, device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.key = f"DINO {model}"

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        model, processor = _load(self.model, self.device)
        pixels = processor([p.convert("RGB") for p in pictures], return_tensors="pt").pixel_values.to(model.device)
        return normalize(model(pixels).last_hidden_state[:, 0].float(), dim=-1)
