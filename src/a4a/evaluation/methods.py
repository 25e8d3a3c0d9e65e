"""The methods that are compared: each draws the pictures of a task in its own way."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Generator

from a4a.adapters.loading import encoder_of, load_adapter
from a4a.backbones import load_pipeline
from a4a.evaluation.generation import Sampling, generate_images, generate_text_only
from a4a.evaluation.tasks.base import Task
from a4a.pipeline import ImagePromptPipeline
from a4a.utils.fingerprint import file_fingerprint
from a4a.utils.modules import default_device, parameter_count


@dataclass(frozen=True)
class Cost:
    """What a method needs for a picture."""

    parameters: int
    """That are loaded besides the upgraded model and its encoders."""
    base_calls: int
    """Calls of the base model's denoiser for one picture."""


class Method(ABC):
    """A method. Its constructor loads nothing; what it loads to generate_images is its `pipe`."""

    trained: ClassVar[tuple[str, ...]] = ()
    """Fields with places of weights that a run may have written anew."""

    @abstractmethod
    def generate(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        """The pictures of these numbers; their noise comes from the generators alone, so that no method or batch size changes it."""

    def cost(self) -> Cost:
        return Cost(0, 0)

    @property
    def key(self) -> str:
        """What it is, for telling one configuration, and one training of it, from another."""
        return " ".join([repr(self), *(file_fingerprint(getattr(self, name)) for name in self.trained)])

    def release(self) -> None:
        """Lets go of what was loaded."""
        vars(self).pop("pipe", None)


def loaded(model: str) -> DiffusionPipeline:
    pipe = load_pipeline(model, dtype=torch.float16 if torch.cuda.is_available() else torch.float32)
    return pipe.to(default_device())


@dataclass
class TextOnly(Method):
    """The model without any reference: the floor."""

    model: str
    sampling: Sampling = field(default_factory=Sampling)

    @cached_property
    def pipe(self) -> DiffusionPipeline:
        return loaded(self.model)

    def generate(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return generate_text_only(self.pipe, task, pictures, noise, self.sampling)


@dataclass
class ImagePromptMethod(Method):
    """An adapter on a model: A4A, IP-Adapter*, PTA-UM, or the PTA on its own base."""

    trained = ("adapter",)

    model: str
    adapter: str
    image_encoder: str | None = None
    scale: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)

    @cached_property
    def pipe(self) -> ImagePromptPipeline:
        adapter = load_adapter(self.adapter)
        encoder = encoder_of(adapter, self.adapter, self.image_encoder)
        encoder.model.to(default_device())  # pyright: ignore[reportArgumentType]
        return ImagePromptPipeline(loaded(self.model), adapter, encoder)

    def generate(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return generate_images(self.pipe, task, pictures, noise, self.sampling, self.scale)

    def cost(self) -> Cost:
        return Cost(parameter_count(self.pipe.adapter), 0)


@dataclass
class CopyReference(Method):
    """The reference unchanged: perfect likeness, no obedience, no diversity. Exposes scores that reward copying."""

    def generate(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return [task.references[task.subject(i)] for i in pictures]


@dataclass
class HeldOutPhoto(Method):
    """Another photo of the subject: the ceiling."""

    def generate(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return [task.photos(i) for i in pictures]
