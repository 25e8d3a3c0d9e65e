"""The methods that are compared: each draws the pictures of a task in its own way."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import SafetensorError
from torch import Generator, nn

from a4a.adapters.loading import encoder_of, load_adapter
from a4a.backbones import backbone_for, load_pipeline
from a4a.baselines import DeltaSamplingPipeline, XAdapter, XAdapterPipeline
from a4a.data.origin import origin
from a4a.errors import InputError, first_line
from a4a.pipeline import ImagePromptPipeline
from a4a.places import resolve
from a4a.tasks import Task


@dataclass(frozen=True)
class Cost:
    """What a method needs for a picture."""

    parameters: int
    """That are loaded besides the upgraded model and its encoders."""
    base_calls: int
    """Calls of the base model's denoiser for one picture."""


class Painter(ABC):
    """A method. Its constructor loads nothing; what it loads to paint is its `pipe`."""

    trained: ClassVar[tuple[str, ...]] = ()
    """Fields with places of weights that a run may have written anew."""

    @abstractmethod
    def paint(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        """The pictures of these numbers; their noise comes from the generators alone, so that no method or batch size changes it."""

    def cost(self) -> Cost:
        return Cost(0, 0)

    @property
    def key(self) -> str:
        """What it is, for telling one configuration, and one training of it, from another."""
        return " ".join([repr(self), *(origin(getattr(self, name)) for name in self.trained)])

    def release(self) -> None:
        """Lets go of what was loaded."""
        vars(self).pop("pipe", None)


@dataclass
class Sampling:
    """How a pipeline is called; what is None is the pipeline's own default."""

    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Classifier-free guidance scale."""
    size: int | None = None
    """Height and width in pixels."""

    def options(self) -> dict[str, Any]:
        named = {"num_inference_steps": self.steps, "guidance_scale": self.guidance, "height": self.size, "width": self.size}
        return {name: value for name, value in named.items() if value is not None}


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def loaded(model: str) -> DiffusionPipeline:
    pipe = load_pipeline(model, dtype=torch.float16 if torch.cuda.is_available() else torch.float32)
    return pipe.to(device())


def size_of(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def paint(
    pipe: Any, task: Task, pictures: Sequence[int], noise: Sequence[Generator], sampling: Sampling, scale: float = 1.0, **options: Any
) -> list[Image.Image]:
    """Calls anything that is called as an `ImagePromptPipeline`; each reference is embedded once."""
    subjects = list(dict.fromkeys(task.subject(i) for i in pictures))
    embeds = pipe.embed([task.references[s] for s in subjects])
    rows = embeds[[subjects.index(task.subject(i)) for i in pictures]]
    prompts = [task.prompts[i] for i in pictures]
    return pipe(prompts, image_prompt=rows, image_prompt_scale=scale, generator=list(noise), **sampling.options(), **options).images


def paint_plain(pipe: DiffusionPipeline, task: Task, pictures: Sequence[int], noise: Sequence[Generator], sampling: Sampling) -> list[Image.Image]:
    """From the prompts alone."""
    call = backbone_for(pipe).call_options() | sampling.options()
    return pipe(prompt=[task.prompts[i] for i in pictures], generator=list(noise), **call).images  # pyright: ignore[reportCallIssue]


@dataclass
class TextOnly(Painter):
    """The model without any reference: the floor."""

    model: str
    sampling: Sampling = field(default_factory=Sampling)

    @cached_property
    def pipe(self) -> DiffusionPipeline:
        return loaded(self.model)

    def paint(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return paint_plain(self.pipe, task, pictures, noise, self.sampling)


@dataclass
class Prompted(Painter):
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
        encoder.model.to(device())  # pyright: ignore[reportArgumentType]
        return ImagePromptPipeline(loaded(self.model), adapter, encoder)

    def paint(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return paint(self.pipe, task, pictures, noise, self.sampling, self.scale)

    def cost(self) -> Cost:
        return Cost(size_of(self.pipe.adapter), 0)


@dataclass
class Copied(Painter):
    """The reference unchanged: perfect likeness, no obedience, no diversity. Exposes scores that reward copying."""

    def paint(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return [task.references[task.subject(i)] for i in pictures]


@dataclass
class Photographed(Painter):
    """Another photo of the subject: the ceiling."""

    def paint(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return [task.photos(i) for i in pictures]


@dataclass
class _TwoModels(Painter):
    trained = ("adapter",)

    base: str
    adapter: str
    model: str
    image_encoder: str | None = None
    scale: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)

    def with_adapter(self) -> ImagePromptPipeline:
        return Prompted(self.base, self.adapter, self.image_encoder).pipe

    def steps(self, pipe: DiffusionPipeline) -> int:
        return self.sampling.steps or inspect.signature(type(pipe).__call__).parameters["num_inference_steps"].default


@dataclass
class DeltaSampled(_TwoModels):
    """Delta Sampling: what the adapter changes in the base model's prediction, added to the upgraded model's. No training."""

    @cached_property
    def pipe(self) -> DeltaSamplingPipeline:
        return DeltaSamplingPipeline(self.with_adapter(), loaded(self.model))

    def paint(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return paint(self.pipe, task, pictures, noise, self.sampling, self.scale)

    def cost(self) -> Cost:
        return Cost(self.pipe.parameters, self.pipe.base_calls(self.steps(self.pipe.pipe)))


def load_mapper(folder: str) -> XAdapter:
    try:
        return XAdapter.from_pretrained(resolve(folder), low_cpu_mem_usage=False)  # pyright: ignore[reportReturnType]
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise InputError(f"{folder!r} is no trained X-Adapter ({first_line(error)}); make one with a4a x-adapter.") from error


@dataclass
class XAdapted(_TwoModels):
    """X-Adapter: the base model's decoder steers the upgraded U-Net through a trained mapper."""

    trained = ("adapter", "mapper")

    mapper: str = ""
    """Folder of the trained mapper."""
    start: float = 0.8
    """Share of the steps that the second stage does."""

    @cached_property
    def pipe(self) -> XAdapterPipeline:
        return XAdapterPipeline(self.with_adapter(), loaded(self.model), load_mapper(self.mapper))

    def paint(self, task: Task, pictures: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return paint(self.pipe, task, pictures, noise, self.sampling, self.scale, start=self.start)

    def cost(self) -> Cost:
        return Cost(self.pipe.parameters, self.pipe.base_calls(self.steps(self.pipe.pipe), self.start))
