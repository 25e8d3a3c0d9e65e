"""Image encoders: pictures to the embeddings that adapters take."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionModelWithProjection,
)

from a4a.encoders.base import check_width
from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_model
from a4a.utils.images import to_pil


def clip_processor(name: str, folder: dict[str, Any], side: Any) -> CLIPImageProcessorPil:
    """The preprocessing of a model that lies there; published adapters ship the model without one: CLIP's own at the model's size."""
    try:
        return CLIPImageProcessorPil.from_pretrained(name, **folder)
    except OSError:
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


class CLIPImageEncoder:
    """A frozen CLIP vision tower and its preprocessing; pictures to projected embeddings [batch, image_embed_dim]."""

    def __init__(self, model: CLIPVisionModelWithProjection, processor: CLIPImageProcessorPil):
        self.model = model.eval().requires_grad_(False)
        self.processor = processor

    @classmethod
    def load(cls, path: str | Path, dtype: torch.dtype = torch.float32) -> "CLIPImageEncoder":
        """From a folder or a hub name (`h94/IP-Adapter` keeps ViT-H under `models/image_encoder`: `owner/repo/folder`)."""
        name, folder = resolve_model(path, "image encoder")
        try:
            model = CLIPVisionModelWithProjection.from_pretrained(name, **folder, dtype=dtype)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} could not be loaded as a CLIP vision model ({first_line(error)}).") from error
        return cls(model, clip_processor(name, folder, model.config.image_size))

    @property
    def image_embed_dim(self) -> int:
        return self.model.config.projection_dim

    @torch.no_grad()
    def __call__(self, pictures: Tensor | Sequence[Image.Image]) -> Tensor:
        """Pictures as [batch, 3, height, width] in [0, 1], or as PIL images."""
        if isinstance(pictures, Tensor) and pictures.shape[-2:] == (
            self.processor.crop_size["height"],
            self.processor.crop_size["width"],
        ):
            mean, std = (
                pictures.new_tensor(v)[:, None, None] for v in (self.processor.image_mean, self.processor.image_std)
            )
            pixels = ((pictures * 255).round() / 255 - mean) / std  # what the processor does with pictures that fit
        else:
            images = to_pil(pictures) if isinstance(pictures, Tensor) else [p.convert("RGB") for p in pictures]
            pixels = self.processor(images, return_tensors="pt").pixel_values
        return self.model(pixels.to(self.model.device, self.model.dtype)).image_embeds

    def check(self, image_embed_dim: int, what: str) -> None:
        """Raises InputError where an adapter expects embeddings of another width."""
        check_width(self.image_embed_dim, image_embed_dim, what)


LARGE = "openai/clip-vit-large-patch14"


@cache
def _load(model: str, device: str) -> tuple[Any, CLIPImageProcessorPil]:
    """A CLIPModel, or a CLIPVisionModelWithProjection, and its preprocessing."""
    name, folder = resolve_model(model, "CLIP model")
    try:
        config = AutoConfig.from_pretrained(name, **folder)
        if not isinstance(config, CLIPConfig):
            vision = CLIPImageEncoder.load(model)
            return vision.model.to(device), vision.processor  # pyright: ignore[reportArgumentType]
        # whole, although only half may be used: in some published configurations (laion's) the halves do not know their projection
        whole: Any = CLIPModel.from_pretrained(name, **folder, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model} could not be loaded as a CLIP model ({first_line(error)}); give a hub name or a folder of one."
        ) from error
    return whole.to(device).eval().requires_grad_(False), clip_processor(
        name, folder, whole.config.vision_config.image_size
    )


@cache
def _tokenizer(model: str, words: int):
    name, folder = resolve_model(model, "CLIP model")
    if Path(name, "tokenizer").is_dir():
        folder = {"subfolder": "tokenizer"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **folder)
        found = len(tokenizer)
    except (OSError, ValueError):
        found = 0
    if found != words:  # where there are no files, transformers makes a tokenizer of two words and says nothing
        raise InputError(
            f"The tokenizer of {model} has {found} words where its text tower has {words}; add CLIP's tokenizer to the folder."
        )
    return tokenizer


class CLIP:
    """Projected CLIP vectors of pictures, and of texts where the model has both towers.

    Args:
        model: hub name, folder or zoo:NAME of a CLIP model; for pictures alone, of a vision tower with its projection.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, device: str | None = None):
        resolve_model(model, "CLIP model")
        self.model, self.device = model, device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.key = f"CLIP {model}"

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        model, processor = _load(self.model, self.device)
        pixels = processor([p.convert("RGB") for p in pictures], return_tensors="pt").pixel_values.to(model.device)
        found = (
            model.get_image_features(pixel_values=pixels).pooler_output
            if isinstance(model, CLIPModel)
            else model(pixels).image_embeds
        )
        return normalize(found.float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors [prompts, width]; what does not fit into the text tower is cut off. InputError for a model without one."""
        model, _ = _load(self.model, self.device)
        if not isinstance(model, CLIPModel):
            raise InputError(
                f"{self.model} is a vision tower alone; the text score needs a whole CLIP model, such as {LARGE}."
            )
        text = model.config.text_config
        tokens = _tokenizer(self.model, text.vocab_size)(
            list(prompts), padding=True, truncation=True, max_length=text.max_position_embeddings, return_tensors="pt"
        )
        found = model.get_text_features(
            tokens.input_ids.to(model.device), tokens.attention_mask.to(model.device)
        ).pooler_output
        return normalize(found.float(), dim=-1)
