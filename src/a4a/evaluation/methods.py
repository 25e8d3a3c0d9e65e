"""The contract of a method that is compared, and the methods that need nothing but the upgraded model.

Methods that run a second diffusion model bring their own class: see `a4a.baselines`.
"""

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
from a4a.adapters.multi_source import choose_source
from a4a.backbones import load_pipeline
from a4a.evaluation.generation import Sampling, generate_images, generate_text_only
from a4a.evaluation.tasks.base import Task
from a4a.pipeline import ImagePromptPipeline
from a4a.utils.fingerprint import file_fingerprint
from a4a.utils.modules import default_device, parameter_count


@dataclass(frozen=True)
class Cost:
    """What a method needs in addition to the upgraded model and its encoders."""

    parameters: int
    """Parameters that are loaded in addition."""
    base_calls: int
    """Calls of the base model's denoiser for one image."""


class Method(ABC):
    """A way to generate the images of a task.

    A subclass is a dataclass of settings. Its constructor loads nothing; models are loaded when first used, into the
    cached property `pipe`.
    """

    trained: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that are paths of trained weights. Training again writes other weights to the same path, so
    that the path alone does not identify a method."""

    @abstractmethod
    def generate(self, task: Task, indices: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        """Generate some of a task's images.

        Args:
            task: references and prompts.
            indices: which of the task's images.
            noise: a generator for each of them, the only source of randomness: an image depends neither on the method
                that was run before nor on the batch that it is in.
        """

    def cost(self) -> Cost:
        """What the method needs in addition; nothing by default."""
        return Cost(parameters=0, base_calls=0)

    @property
    def key(self) -> str:
        """Identifies the settings and the trained weights: methods with equal keys generate the same images."""
        return " ".join([repr(self), *(file_fingerprint(getattr(self, name)) for name in self.trained)])

    def release(self) -> None:
        """Free the models, so that the next method has the memory for itself."""
        vars(self).pop("pipe", None)


def load_for_inference(model: str) -> DiffusionPipeline:
    """The pipeline on the default device, in half precision on a GPU.

    Without SD1.5's safety checker: a black image would be scored as the method's own.
    """
    dtype = torch.float16 if torch.cuda.is_available() else torch.float32
    pipe = load_pipeline(model, dtype, parts="unfiltered")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(default_device())


@dataclass
class TextOnly(Method):
    """The model without any reference: the floor of every score that compares with the reference."""

    model: str
    sampling: Sampling = field(default_factory=Sampling)

    @cached_property
    def pipe(self) -> DiffusionPipeline:
        return load_for_inference(self.model)

    def generate(self, task: Task, indices: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return generate_text_only(self.pipe, task, indices, noise, self.sampling)


@dataclass
class ImagePromptMethod(Method):
    """An adapter on a model: A4A, IP-Adapter*, PTA-UM, or the PTA on its own base model.

    Args:
        model: diffusers pipeline: hub name, folder or zoo:NAME.
        adapter: folder, file or hub name of the adapter.
        image_encoder: CLIP vision tower; by default the one that the adapter names.
        scale: weight of the image prompt.
        sampling: steps, guidance and size.
        source: which of its sources the adapter is used with, where it has several.
    """

    trained = ("adapter",)

    model: str
    adapter: str
    image_encoder: str | None = None
    scale: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    source: str | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        return f"{super().key} source {self.source}" if self.source is not None else super().key

    @cached_property
    def pipe(self) -> ImagePromptPipeline:
        adapter = choose_source(load_adapter(self.adapter), self.source)
        encoder = encoder_of(adapter, self.adapter, self.image_encoder)
        encoder.to(default_device())
        return ImagePromptPipeline(load_for_inference(self.model), adapter, encoder)

    def generate(self, task: Task, indices: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return generate_images(self.pipe, task, indices, noise, self.sampling, self.scale)

    def cost(self) -> Cost:
        return Cost(parameter_count(self.pipe.adapter), base_calls=0)


@dataclass
class CopyReference(Method):
    """Returns the reference: identity 1, no prompt adherence, no diversity. Exposes scores that reward copying."""

    def generate(self, task: Task, indices: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return [task.references[task.subject_of(i)] for i in indices]


@dataclass
class HeldOutPhoto(Method):
    """Returns another photo of the subject: the ceiling of every score that compares with the reference."""

    def generate(self, task: Task, indices: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return [task.held_out_photo(i) for i in indices]
