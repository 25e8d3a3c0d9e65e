"""CLIP: its vision tower as an image encoder, and its text tower for the score of images against prompts."""

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

from a4a.encoders.base import Images, Output, TorchImageEncoder
from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_model
from a4a.utils.images import to_pil
from a4a.utils.modules import default_device

LARGE = "openai/clip-vit-large-patch14"


class CLIPImageEncoder(TorchImageEncoder):
    """A frozen CLIP vision tower and its preprocessing.

    `pooled` is the projected embedding, which the base family of IP-Adapter and the CLIP scores take; `tokens` are the
    hidden states before the last layer, which IP-Adapter Plus takes.

    Args:
        model: hub name, folder or zoo:NAME of a CLIP model, or of its vision tower with projection alone.
        output: `pooled` or `tokens`.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, output: Output = "pooled", device: str | None = None):
        resolve_model(model, "CLIP model")
        super().__init__(model, device)
        self.output = output
        self.key = f"CLIP {model}"

    @classmethod
    def from_pretrained(
        cls, path: str | Path, torch_dtype: torch.dtype = torch.float32, output: Output = "pooled"
    ) -> Self:
        """Load now, with weights of its own, on the CPU.

        Args:
            path: zoo:NAME, a folder or a hub name (`owner/repo` or `owner/repo/folder`, as h94/IP-Adapter keeps ViT-H
                under `models/image_encoder`).
            torch_dtype: of the weights.
            output: `pooled` or `tokens`.
        """
        resolve_model(path, "image encoder")
        encoder = cls(str(path), output, device="cpu")._adopt(*_load_vision(str(path), torch_dtype))
        return encoder.to(dtype=torch_dtype)

    @classmethod
    def from_modules(
        cls, module: CLIPVisionModelWithProjection, processor: CLIPImageProcessorPil, output: Output = "pooled"
    ) -> Self:
        """From a model and an image processor that are already in memory."""
        encoder = cls.__new__(cls)
        TorchImageEncoder.__init__(encoder, f"in memory {id(module)}", "cpu")
        encoder.output, encoder.key, encoder.path = output, f"CLIP {encoder.model}", None
        return encoder._adopt(module, processor)

    def _load(self) -> tuple[CLIPVisionModelWithProjection, CLIPImageProcessorPil]:
        return _load_shared(self.model, self._device, self._dtype)

    @property
    def image_embed_dim(self) -> int:
        config = self.module.config
        return config.projection_dim if self.output == "pooled" else config.hidden_size

    @torch.no_grad()
    def __call__(self, images: Images) -> Tensor:
        side = self.processor.crop_size["height"], self.processor.crop_size["width"]
        if isinstance(images, Tensor) and images.shape[-2:] == side:
            mean, std = (
                images.new_tensor(v)[:, None, None] for v in (self.processor.image_mean, self.processor.image_std)
            )
            return self._encode(((images * 255).round() / 255 - mean) / std)  # as the processor does at this size
        return self._encode(self._pixels(to_pil(images) if isinstance(images, Tensor) else images))

    @torch.no_grad()
    def unconditional(self) -> Tensor:
        """Zeros; of tokens, those of an image that is zero after preprocessing, as diffusers does."""
        if self.output == "pooled":
            return super().unconditional()
        side = self.module.config.image_size
        return self._encode(torch.zeros(1, 3, side, side))

    def _encode(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.module.device, self.module.dtype)
        if self.output == "pooled":
            return self.module(pixels).image_embeds
        return self.module(pixels, output_hidden_states=True).hidden_states[-2]

    def with_output(self, output: Output) -> Self:
        other = copy.copy(self)
        other.output = output
        return other


class CLIPTextEncoder:
    """Unit vectors of texts, to compare with those of images.

    Args:
        model: hub name, folder or zoo:NAME of a whole CLIP model; loaded when first used.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, device: str | None = None):
        resolve_model(model, "CLIP model")
        self.model = model
        self._device = torch.device(device) if device else default_device()

    @torch.no_grad()
    def unit_vectors(self, texts: Sequence[str]) -> Tensor:
        """[texts, width]; words that do not fit into the text tower are cut off.

        Raises InputError where the model has no text tower or no tokenizer.
        """
        model = _load_text(self.model, self._device)
        config = model.config
        tokens = _tokenizer(self.model, config.vocab_size)(
            list(texts), padding=True, truncation=True, max_length=config.max_position_embeddings, return_tensors="pt"
        )
        vectors = model(tokens.input_ids.to(model.device), tokens.attention_mask.to(model.device)).text_embeds
        return normalize(vectors.float(), dim=-1)


def _load_vision(model: str, dtype: torch.dtype) -> tuple[Any, CLIPImageProcessorPil]:
    name, folder = resolve_model(model, "CLIP model")
    try:
        config: Any = AutoConfig.from_pretrained(name, **folder)
        if isinstance(config, CLIPConfig):
            config = _tower(config, "vision_config")
        module: Any = CLIPVisionModelWithProjection.from_pretrained(name, **folder, config=config, dtype=dtype)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model} could not be loaded as a CLIP vision model ({first_line(error)}); "
            f"give a hub name or a folder of one."
        ) from error
    return module.eval().requires_grad_(False), clip_processor(name, folder, module.config.image_size)


@cache
def _load_shared(model: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, CLIPImageProcessorPil]:
    module, processor = _load_vision(model, dtype)
    return module.to(device), processor


def _tower(config: CLIPConfig, name: str) -> Any:
    """The configuration of one tower of a whole model; some published ones (laion's) lack their projection's width."""
    tower = getattr(config, name)
    tower.projection_dim = config.projection_dim
    return tower


def clip_processor(name: str, folder: dict[str, Any], side: int) -> CLIPImageProcessorPil:
    """The preprocessing saved with a model, or CLIP's own at the model's size: IP-Adapter's encoders ship none."""
    try:
        return CLIPImageProcessorPil.from_pretrained(name, **folder)
    except OSError:
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


@cache
def _load_text(model: str, device: torch.device) -> Any:
    name, folder = resolve_model(model, "CLIP model")
    try:
        config: Any = AutoConfig.from_pretrained(name, **folder)
        if not isinstance(config, CLIPConfig):
            raise InputError(
                f"{model} is a vision tower alone; the text score needs a whole CLIP model, such as {LARGE}."
            )
        text: Any = CLIPTextModelWithProjection.from_pretrained(
            name, **folder, config=_tower(config, "text_config"), dtype=torch.float32
        )
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model} could not be loaded as a CLIP model ({first_line(error)}); give a hub name or a folder of one."
        ) from error
    return text.to(device).eval().requires_grad_(False)


@cache
def _tokenizer(model: str, vocabulary: int) -> Any:
    name, folder = resolve_model(model, "CLIP model")
    if Path(name, "tokenizer").is_dir():
        folder = {"subfolder": "tokenizer"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **folder)
        found = len(tokenizer)
    except (OSError, ValueError):
        found = 0
    if found != vocabulary:  # without files, transformers silently makes a tokenizer of two words
        raise InputError(
            f"The tokenizer of {model} has {found} words where its text tower has {vocabulary}; "
            f"add CLIP's tokenizer to the folder."
        )
    return tokenizer
