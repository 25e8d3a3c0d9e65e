"""What is on a picture, in the words of an image-to-text model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_model


@dataclass
class Caption:
    """The model that writes captions where there are none."""

    model: Path
    """BLIP-2 or another image-to-text model of transformers: a folder or hub name such as Salesforce/blip2-opt-2.7b."""
    prompt: str = ""
    """What a caption begins with or the question that it answers, as the model wants it; BLIP-2 needs none."""
    length: int = 40
    """Most tokens of a caption."""
    batch: int = 8
    """Pictures at a time."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


class Captioner:
    """Pictures to captions; loads its model when first asked."""

    def __init__(self, settings: Caption):
        self.settings = settings

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        name, folder = resolve_model(self.settings.model, "captioning model")
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                name, **folder, dtype=getattr(torch, self.settings.precision)
            )
            processor = AutoProcessor.from_pretrained(name, **folder)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.settings.model} could not be loaded as an image-to-text model ({first_line(error)})."
            ) from error
        if not hasattr(processor, "tokenizer"):  # of pictures or of text alone
            raise InputError(
                f"{self.settings.model} comes with a {type(processor).__name__} and no processor of pictures and text together; give a model such as BLIP-2."
            )
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # what is written goes on where the prompt ends
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]:
        model, processor = self.loaded
        prompt = _decoded(processor.tokenizer, processor.tokenizer(self.settings.prompt).input_ids)
        said: list[str] = []
        for start in range(0, len(pictures), self.settings.batch):
            part = list(pictures[start : start + self.settings.batch])
            inputs = processor(
                images=part, text=[self.settings.prompt] * len(part), return_tensors="pt", padding=True
            ).to(model.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            written = model.generate(**inputs, max_new_tokens=self.settings.length, do_sample=False)
            said += [_decoded(processor.tokenizer, ids) for ids in written]
        return [text.removeprefix(prompt).strip() for text in said]


def _decoded(tokenizer: Any, ids: Any) -> str:
    """What tokens say, a space between words: a tokenizer may have changed the case or the spaces of what it was given."""
    return " ".join(tokenizer.decode(ids, skip_special_tokens=True).split())
