"""The contract of denoiser families. To add a family, write one file in this folder with a subclass of `Backbone`."""

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from a4a.backbones import latents
from a4a.backbones.attention import CROSS, AttentionContract, ImageRows, contract_of
from a4a.backbones.dequantization import plain_linear
from a4a.backbones.prediction import Prediction, TimestepDensity, prediction_for, split_variance
from a4a.backbones.published import PublishedModel
from a4a.backbones.sizes import SizeConditions
from a4a.backbones.unsupported import why_unsupported
from a4a.errors import InputError
from a4a.features import Site
from a4a.image_terms import TokenGrid
from a4a.utils.modules import DENOISER_PARTS

Text = dict[str, Tensor]
"""The encoded prompts that a denoiser takes: tensors with one row per prompt, by names that the backbone chooses."""

Guidance = Literal["negative_first", "negative_last", "separate"]
"""How pipelines run classifier-free guidance: as one batch [negatives, prompts] or [prompts, negatives], or as two
forward passes, the prompts first."""


class Backbone(ABC):
    """A diffusers pipeline, seen as a denoiser with sites where image features enter.

    A family must define `denoisers`, `encode_text`, `text_shapes` and `run_denoiser`. Everything else has a default
    that fits latent diffusion with cross-attention in blocks of `BasicTransformerBlock`. A subclass in a file of this
    folder registers itself. Add a tiny pipeline of it to `tests/tiny_models.py`; every contract test then runs on it.
    """

    denoisers: ClassVar[tuple[str, ...]]
    """Class names of the denoisers, as diffusers calls them."""
    blocks: ClassVar[tuple[str, ...]] = ("BasicTransformerBlock",)
    """Class names of the repeated blocks, which hold most of the weights: these are compiled, quantised and sharded."""
    site_suffix: ClassVar[str] = ".attn2"
    """Ending of the names of the attention modules that are sites."""
    attention: ClassVar[AttentionContract] = CROSS
    """How those modules take image features."""
    site_choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Where image features may enter in more than one way: a name for each, and the block lists whose sites count. The
    first is the default. Families without choices always use all sites."""
    density: ClassVar[TimestepDensity] = TimestepDensity()
    """How the authors of the family draw time steps in training."""
    guidance: ClassVar[Guidance] = "negative_first"
    """How the family's pipelines run classifier-free guidance."""
    patch_size: ClassVar[int] = 2
    """Latents along each side of one image row, as the pipelines count rows for the scheduler's dynamic shift."""
    published: ClassVar[dict[str, PublishedModel]] = {}
    """Models of this family that can be planned and tried without a download, by hub name."""
    families: ClassVar[dict[str, "type[Backbone]"]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in cls.denoisers:
            Backbone.families[name] = cls

    def __init__(self, pipe: DiffusionPipeline):
        self.pipe: Any = pipe
        self.sites = self.find_sites(self.denoiser)

    # --- parts of the pipeline ---------------------------------------------------------------------------------------

    @property
    def denoiser(self) -> Any:
        return denoiser_of(self.pipe)

    @property
    def vae(self) -> Any:
        return self.pipe.vae

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """Everything with weights but the denoiser, by its name in the pipeline: VAE, text encoders."""
        parts = self.pipe.components.items()
        return {n: p for n, p in parts if isinstance(p, nn.Module) and n not in DENOISER_PARTS}

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent, along each side."""
        return self.pipe.vae_scale_factor

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes; with offloading its weights may wait elsewhere."""
        return getattr(self.pipe, "_execution_device", self.denoiser.device)

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.dtype

    def default(self, name: str, method: str = "__call__") -> Any:
        """What an argument of the pipeline's method is by default."""
        return inspect.signature(getattr(type(self.pipe), method)).parameters[name].default

    # --- sites -------------------------------------------------------------------------------------------------------

    @classmethod
    def find_sites(cls, denoiser: nn.Module, choice: str | None = None) -> tuple[Site, ...]:
        """The attention layers that take image features; in the order of published adapters where there are any.

        By default all modules whose names end with `site_suffix`, in the order in which they run. `choice` is one of
        `site_choices`; InputError where the family does not have it.
        """
        names = cls._chosen(cls.site_names(denoiser), choice)
        return tuple(cls.site(denoiser, name, i / max(len(names) - 1, 1)) for i, name in enumerate(names))

    @classmethod
    def _chosen(cls, names: list[str], choice: str | None) -> list[str]:
        if choice is not None and choice not in cls.site_choices:
            known = ", ".join(cls.site_choices) or "none, since it has one way only: leave it out"
            raise InputError(f"sites is {choice!r}; the choices of this model are: {known}.")
        if not cls.site_choices:
            return names
        lists = cls.site_choices[choice or next(iter(cls.site_choices))]
        return [name for name in names if name.split(".")[0] in lists]

    def choose_sites(self, choice: str | None) -> None:
        """Takes image features at the sites of one of `site_choices`; None: the default."""
        self.sites = self.find_sites(self.denoiser, choice)

    def choose_sites_of(self, sites: Sequence[Site]) -> None:
        """Takes image features at the sites that an adapter has, where they are one of `site_choices`.

        The sites stay as they are where no choice fits, as for published files, which number their sites.
        """
        wanted = [site.name for site in sites]
        for choice in self.site_choices:
            found = self.find_sites(self.denoiser, choice)
            if [site.name for site in found] == wanted:
                self.sites = found

    @classmethod
    def site_names(cls, denoiser: nn.Module) -> list[str]:
        return [name for name, _ in denoiser.named_modules() if name.endswith(cls.site_suffix)]

    @classmethod
    def site(cls, denoiser: nn.Module, name: str, depth: float) -> Site:
        contract = cls.attention_at(name)
        return Site(name, contract.key_width(denoiser.get_submodule(name)), depth, contract.name)

    @classmethod
    def attention_at(cls, name: str) -> AttentionContract:
        """How the attention module of that name takes image features; the same everywhere by default."""
        return cls.attention

    @classmethod
    def image_rows(cls, denoiser: Any, inputs: Mapping[str, Any]) -> ImageRows | None:
        """Which rows are those of the drawn image, by the arguments of one call of the denoiser, by their names.

        None: all rows that the sites see. A family must say it where its sites see text and image in one sequence, or
        where rows of reference images follow those of the drawn one. It runs inside graphs of `torch.compile`: read
        shapes, and give tensors for what only values tell.
        """
        return None

    @classmethod
    def token_grid(cls, denoiser: Any, inputs: Mapping[str, Any]) -> TokenGrid:
        """How the rows of the drawn image lie in it, by the arguments of one call of the denoiser, by their names.

        In a U-Net, those of its finest level. By default that of latents [batch, channels, height, width], or of videos
        [batch, channels, frames, height, width]; a family that packs its latents into rows must say it.
        """
        latents, patch = next(iter(inputs.values())), denoiser.config.get("patch_size") or 1
        if not isinstance(latents, Tensor) or latents.ndim not in (4, 5):
            raise InputError(
                f"Masks are not supported with {type(denoiser).__name__}: nothing says how the rows of its packed "
                f"latents lie in the image; leave the mask out."
            )
        frames, height, width = (1, *latents.shape[-2:]) if latents.ndim == 4 else latents.shape[-3:]
        along = (1, patch, patch) if isinstance(patch, int) else tuple(patch)
        return TokenGrid(frames // along[0], height // along[1], width // along[2])

    def text_projections(self) -> tuple[list[nn.Linear], list[nn.Linear]]:
        """The denoiser's own projections of text to keys and to values at its sites, dequantised where they must be."""
        keys: list[nn.Linear] = []
        values: list[nn.Linear] = []
        dtype = self.dtype
        for site in self.sites:
            contract, module = contract_of(site.attention), self.denoiser.get_submodule(site.name)
            key, value = contract.text_projections(module)
            plain_key = plain_linear(key, f"the text keys of {site.name}", dtype)
            plain_value = plain_key if value is key else plain_linear(value, f"the text values of {site.name}", dtype)
            keys.append(contract.text_part(module, plain_key, "keys"))
            values.append(contract.text_part(module, plain_value, "values"))
        return keys, values

    # --- text --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Prompts as the pipeline itself encodes them: tensors [prompts, ...] on the CPU."""

    def no_text(self) -> Text:
        """What the pipeline's guidance uses where there is no negative prompt: tensors [1, ...] on the CPU."""
        return self.encode_text([""])

    @abstractmethod
    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        """For each tensor of `encode_text`: the shape of one row, and its dtype where it is not the text encoder's."""

    # --- denoising ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        """The denoiser's output for noisy latents [batch, channels, height, width] and time steps [batch].

        `sizes` are the images' size conditions, for families that take any.
        """

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions | None = None) -> Tensor:
        """The denoiser's prediction [batch, channels, height, width], without the learned variance of some models.

        Without `sizes`, the images count as neither resized nor cropped, as in a call of the pipeline.
        """
        if sizes is None:
            height, width = (side * self.vae_scale_factor for side in noisy.shape[-2:])
            sizes = SizeConditions.uncropped(len(noisy), height, width, noisy.device)
        return split_variance(self.run_denoiser(noisy, timesteps, text, sizes), noisy.shape[1])[0]

    @property
    def prediction(self) -> Prediction:
        """What `predict` gives, and how it is trained, by the scheduler that the pipeline has now."""
        return prediction_for(self.pipe.scheduler)

    def shift_mu(self, latents: Tensor) -> float | None:
        """mu, by which a scheduler with `use_dynamic_shifting` shifts its time steps for latents of this size.

        None for other schedulers. By default linear in the number of image rows, as in the pipelines of SD3 and FLUX.
        """
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return None
        rows = (latents.shape[-2] // self.patch_size) * (latents.shape[-1] // self.patch_size)
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return base + (most - base) * (rows - low) / (high - low)

    def guidance_options(self, scale: float, prompts: int) -> dict[str, Any]:
        """Arguments of a call of this pipeline for classifier-free guidance of so many prompts by `scale`.

        For a distilled model, `scale` is what it takes as an input.
        """
        return {"guidance_scale": scale}

    def call_options(self) -> dict[str, Any]:
        """Arguments that a call of this pipeline needs, where its own defaults do not fit the model."""
        return {}

    def image_options(self) -> dict[str, Any]:
        """Arguments with which a call of this pipeline draws images; a video pipeline needs some."""
        return {}

    def drawn_images(self, output: Any) -> list[Image.Image]:
        """The images that a call with `image_options` returned."""
        return output.images

    # --- latents -----------------------------------------------------------------------------------------------------

    @property
    def latent_channels(self) -> int:
        """Channels of the latents that `encode_pixels` gives and `predict` takes."""
        return self.denoiser.config.in_channels

    def latent_size(self, pixels: int | None = None) -> int:
        """Side of the latents of square images of so many pixels; by default of those that the model was trained on."""
        return pixels // self.vae_scale_factor if pixels else self.denoiser.config.sample_size

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Images [batch, 3, height, width] in [-1, 1] to latents, shifted and scaled as the denoiser takes them.

        Raises InputError where they are not finite.
        """
        vae = self.vae
        raw = latents.encode(vae, pixels)
        if not raw.isfinite().all():
            format_ = str(vae.dtype).removeprefix("torch.")
            remedy = "replace its weights" if vae.dtype == torch.float32 else "use float32, or a VAE made for 16 bits"
            raise InputError(
                f"The VAE of {type(self.pipe).__name__} gives latents that are not finite in {format_}; {remedy}."
            )
        shift, scale = latents.normalisation(vae, raw)
        return (raw - shift) * scale

    def decode_latents(self, normalised: Tensor) -> Tensor:
        """The inverse of `encode_pixels`."""
        shift, scale = latents.normalisation(self.vae, normalised)
        return latents.decode(self.vae, normalised / scale + shift)


def denoiser_of(pipe: DiffusionPipeline) -> Any:
    """The denoiser of a pipeline, whose modules the sites name; without the wrappers of `torch.compile` and peft."""
    parts = (getattr(pipe, name, None) for name in DENOISER_PARTS)
    denoiser = next((part for part in parts if part is not None), None)
    denoiser: Any = getattr(denoiser, "_orig_mod", denoiser)
    return denoiser.get_base_model() if hasattr(denoiser, "get_base_model") else denoiser  # of peft's get_peft_model


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
    """The backbone of a pipeline, by the class of its denoiser or the nearest one that it inherits.

    Raises InputError where none serves it.
    """
    return family_of(denoiser_of(pipe), type(pipe).__name__)(pipe)


def family_of(denoiser: nn.Module, owner: str) -> type[Backbone]:
    """The backbone class of a denoiser, by its class or the nearest one that it inherits.

    Raises InputError, which names the `owner` of the denoiser, where none serves it.
    """
    family = find_family(denoiser)
    if family is None:
        raise InputError(
            f"The denoiser {type(denoiser).__name__} of {owner} is not supported: "
            f"{why_unsupported(type(denoiser).__name__)}; expected one of {', '.join(sorted(families()))}."
        )
    return family


def find_family(denoiser: nn.Module) -> type[Backbone] | None:
    """The backbone class of a denoiser, by its class or the nearest one that it inherits; None where none serves it."""
    known = families()
    return next((known[kind.__name__] for kind in type(denoiser).__mro__ if kind.__name__ in known), None)
