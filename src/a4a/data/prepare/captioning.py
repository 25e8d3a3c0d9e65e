"""Captions by an image-to-text model such as BLIP-2, for images that have none."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_model
from a4a.utils.modules import default_device


@dataclass
class CaptionConfig:
    """The model that writes captions where images have none."""

    model: Path
    """BLIP-2 or another image-to-text model of transformers: a folder or hub name such as Salesforce/blip2-opt-2.7b."""
    prompt: str = ""
    """Beginning of every caption, or the question that it answers, as the model expects it; BLIP-2 needs none."""
    length: int = 40
    """Maximum tokens of a caption."""
    batch: int = 8
    """Images at a time."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


class Captioner:
    """Writes captions of images; loads its model when first called."""

    def __init__(self, settings: CaptionConfig):
        self.settings = settings

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        name, folder = resolve_model(self.settings.model, "captioning model")
        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(
                name, **folder, dtype=getattr(torch, self.settings.precision)
            )
            processor: Any = AutoProcessor.from_pretrained(name, **folder)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.settings.model} could not be loaded as an image-to-text model ({first_line(error)})."
            ) from error
        if not hasattr(processor, "tokenizer"):  # it processes only images, or only text
            raise InputError(
                f"{self.settings.model} comes with a {type(processor).__name__} and no processor of images and text "
                "together; give a model such as BLIP-2."
            )
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # new tokens must follow the prompt, not its padding
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return model.to(default_device()).eval(), processor

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        model, processor = self.loaded
        prompt = _decoded(processor.tokenizer, processor.tokenizer(self.settings.prompt).input_ids)
        captions: list[str] = []
        for start in range(0, len(images), self.settings.batch):
            batch = list(images[start : start + self.settings.batch])
            inputs = processor(
                images=batch, text=[self.settings.prompt] * len(batch), return_tensors="pt", padding=True
            ).to(model.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            generated = model.generate(**inputs, max_new_tokens=self.settings.length, do_sample=False)
            captions += [_decoded(processor.tokenizer, ids) for ids in generated]
        return [caption.removeprefix(prompt).strip() for caption in captions]


def _decoded(tokenizer: Any, ids: Any) -> str:
    """Text of these tokens with single spaces; a tokenizer may change the case and the spaces of what it was given."""
    return " ".join(tokenizer.decode(ids, skip_special_tokens=True).split())
