"""What the code must know of one family of denoisers."""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from a4a.backbones.attention import contract_of
from a4a.errors import InputError
from a4a.features import Site
from a4a.utils.modules import DENOISER_PARTS

Text = dict[str, Tensor]
"""What a denoiser takes of its prompts, one row a prompt; the keys are the backbone's own business."""


class Backbone(ABC):
    """A diffusers pipeline, seen as a denoiser with sites.

    A subclass in a file of this folder is found by itself: it names the denoisers that it serves.
    """

    denoisers: ClassVar[tuple[str, ...]]
    """Class names of the denoisers, as diffusers calls them."""
    block: ClassVar[str] = "BasicTransformerBlock"
    """Class name of the blocks that repeat, and so hold most of the weights: what is compiled, kept in 8 bits or spread."""
    families: ClassVar[dict[str, "type[Backbone]"]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in cls.denoisers:
            Backbone.families[name] = cls

    def __init__(self, pipe: DiffusionPipeline):
        self.pipe = pipe
        self.sites = self.find_sites(self.denoiser)

    @property
    def denoiser(self) -> Any:
        return denoiser_of(self.pipe)

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes; its weights may wait elsewhere, as offloading leaves them."""
        return getattr(self.pipe, "_execution_device", self.denoiser.device)

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.dtype

    @classmethod
    @abstractmethod
    def find_sites(cls, denoiser: nn.Module) -> tuple[Site, ...]:
        """The cross-attention layers; in the order of published adapters where there are any."""

    def text_projections(self) -> tuple[list[nn.Linear], list[nn.Linear]]:
        """The denoiser's own projections of text to keys and to values at its sites."""
        found = [contract_of(s.attention).text_projections(self.denoiser.get_submodule(s.name)) for s in self.sites]
        keys, values = zip(*found, strict=True)
        return list(keys), list(values)

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Prompts as the pipeline itself encodes them, one row each, on the CPU."""

    @abstractmethod
    def no_text(self) -> Text:
        """One row: what the pipeline's guidance uses where there is no negative prompt."""

    @abstractmethod
    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        """Shape of one row of what `encode_text` gives, and its type where it is not the text encoder's."""

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """The denoiser's prediction [batch, channels, height, width] of what `target` gives."""

    def call_options(self) -> dict[str, Any]:
        """What a call of the pipeline needs for this very model, where the pipeline's own defaults do not fit it."""
        return {}

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Pictures [batch, 3, height, width] in [-1, 1] to latents, scaled as the denoiser sees them."""
        vae = self.pipe.vae  # pyright: ignore[reportAttributeAccessIssue]
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.sample()
        return (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor

    @property
    def training_scheduler(self) -> DDPMScheduler:
        """The noise that the model was trained with."""
        return DDPMScheduler.from_config(self.pipe.scheduler.config)  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]

    def target(self, scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser was trained to predict."""
        kind = scheduler.config.prediction_type  # pyright: ignore[reportAttributeAccessIssue]
        if kind == "epsilon":
            return noise
        if kind == "v_prediction":
            return scheduler.get_velocity(latents, noise, timesteps)  # pyright: ignore[reportArgumentType]
        if kind == "sample":
            return latents
        raise InputError(f"The scheduler predicts {kind!r}; expected epsilon, v_prediction or sample.")


def denoiser_of(pipe: DiffusionPipeline) -> Any:
    """The denoiser itself, also where `torch.compile` has wrapped it: its own modules have the names of the sites."""
    found = (getattr(pipe, name, None) for name in DENOISER_PARTS)
    denoiser = next((part for part in found if part is not None), None)
    return getattr(denoiser, "_orig_mod", denoiser)


def denoiser_part(pipe_or_names: Any) -> str:
    """What a pipeline calls its denoiser, from the pipeline or from the names of its parts."""
    names = pipe_or_names.components if isinstance(pipe_or_names, DiffusionPipeline) else pipe_or_names
    found = next((name for name in DENOISER_PARTS if name in names), None)
    if found is None:
        raise InputError(
            f"The pipeline has no denoiser: it consists of {', '.join(sorted(names))}; "
            f"expected {' or '.join(DENOISER_PARTS)} among them."
        )
    return found


def families() -> dict[str, type[Backbone]]:
    """All backbones by the class names of their denoisers."""
    package = importlib.import_module("a4a.backbones")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"a4a.backbones.{module.name}")
    return Backbone.families


def backbone_for(pipe: DiffusionPipeline) -> Backbone:
    """The backbone of a pipeline, by the class of its denoiser or the next one that it inherits; InputError where none serves it."""
    names, known = [kind.__name__ for kind in type(denoiser_of(pipe)).__mro__], families()
    family = next((known[name] for name in names if name in known), None)
    if family is None:
        raise InputError(
            f"The denoiser {names[0]} of {type(pipe).__name__} is not supported; expected one of {', '.join(sorted(known))}."
        )
    return family(pipe)
