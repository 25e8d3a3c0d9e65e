"""DINO: the class token of a vision transformer trained without labels."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from a4a.encoders.base import Images, TorchImageEncoder
from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_model
from a4a.utils.images import to_pil

BASE = "facebook/dinov2-base"
KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")
"""Model types whose first token is the class token."""


class DINO(TorchImageEncoder):
    """The class token of a DINO vision transformer.

    Args:
        model: hub name or folder of a DINO, DINOv2 or DINOv3 model; DreamBooth's score uses `facebook/dino-vits16`.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = BASE, device: str | None = None):
        resolve_model(model, "DINO model")
        super().__init__(model, device)
        self.key = f"DINO {model}"

    def _load(self) -> tuple[Any, Any]:
        return _load_shared(self.model, self._device, self._dtype)

    @property
    def image_embed_dim(self) -> int:
        return self.module.config.hidden_size

    @torch.no_grad()
    def __call__(self, images: Images) -> Tensor:
        pixels = self._pixels(to_pil(images) if isinstance(images, Tensor) else images)
        return self.module(pixels.to(self.module.device, self.module.dtype)).last_hidden_state[:, 0]


@cache
def _load_shared(model: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    name, folder = resolve_model(model, "DINO model")
    try:
        config = AutoConfig.from_pretrained(name, **folder)
        if config.model_type not in KINDS:
            raise InputError(
                f"{model} is a model of type {config.model_type}; "
                f"the DINO score takes {', '.join(KINDS)}, such as {BASE}."
            )
        options = {"add_pooling_layer": False} if config.model_type == "vit" else {}
        module = AutoModel.from_pretrained(name, **folder, **options, dtype=dtype)
        processor = AutoImageProcessor.from_pretrained(name, **folder, backend="pil")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model} could not be loaded as a DINO model with its preprocessing ({first_line(error)}); "
            f"give its hub name."
        ) from error
    return module.to(device).eval().requires_grad_(False), processor
