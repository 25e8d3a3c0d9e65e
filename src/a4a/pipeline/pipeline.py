"""ImagePromptPipeline: a diffusers pipeline, an adapter and its image encoder, called as one pipeline."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.loading import load_adapter
from a4a.adapters.multi_source import choose_source
from a4a.backbones import Backbone, backbone_for, load_pipeline
from a4a.encoders import CLIPImageEncoder, ImageEncoder
from a4a.errors import InputError
from a4a.features import SiteFeatures, differing_site
from a4a.injection import Scale, attach, site_scales
from a4a.pipeline.arguments import bind, prompt_count
from a4a.pipeline.guidance import check_guidance, is_perturbed
from a4a.pipeline.references import ImagePrompt, load_references

ADAPTER_FOLDER = "image_prompt_adapter"
"""Folder of the adapter inside that of a saved pipeline."""

_LOCKS: "WeakKeyDictionary[nn.Module, RLock]" = WeakKeyDictionary()  # pyright: ignore[reportInvalidTypeForm]
"""One lock a denoiser: while features are attached to it, every other call waits."""


class ImagePromptPipeline:
    """A diffusers pipeline that also takes `image_prompt=`, `image_prompt_embeds=` and `image_prompt_scale=`.

        pipe = ImagePromptPipeline(StableDiffusionXLPipeline.from_pretrained(...), A4A.from_pretrained(...))
        images = pipe("a cat on a beach", image_prompt="cat.png", image_prompt_scale=0.8).images

    Every other argument, attribute and method is the wrapped pipeline's: `pipe.scheduler = ...`, `pipe.to("cuda")`,
    `pipe.enable_model_cpu_offload()`, `pipe.load_lora_weights(...)`. Without an image prompt, or at scale 0, it
    generates what the wrapped pipeline generates. Calls from several threads wait for each other.

    Args:
        pipe: pipeline of a denoiser that a backbone serves.
        adapter: an adapter for the sites of that denoiser; of several sources, that of one (`adapter.select(name)`).
        image_encoder: the encoder, or its name or folder; by default the one that the adapter names. An adapter that
            names none, as published files do, then takes image embeddings alone.

    Raises InputError where the adapter is for other sites or another image encoder, where `pipe` guides in a way that
    does not say which rows of its batches are prompts, and where one of diffusers' own IP-Adapters is loaded.
    """

    _OWN: ClassVar = {"pipe", "backbone", "adapter", "image_encoder"}

    def __init__(
        self,
        pipe: DiffusionPipeline,
        adapter: ImagePromptAdapter,
        image_encoder: ImageEncoder | str | Path | None = None,
    ):
        check_guidance(pipe)
        adapter = choose_source(adapter)
        self.pipe, self.backbone = pipe, backbone_for(pipe)
        _check_no_native_adapter(pipe, self.backbone.denoiser)
        self.backbone.choose_sites_of(adapter.sites)
        _check_sites(pipe, self.backbone, adapter)
        self.adapter = adapter.eval()
        name = adapter.image_encoder_path if image_encoder is None else image_encoder
        encoder = CLIPImageEncoder.from_pretrained(name) if isinstance(name, str | Path) else name
        self.image_encoder = encoder.with_output(adapter.encoder_output) if encoder is not None else None
        if self.image_encoder is not None:
            self.image_encoder.check(adapter.image_embed_dim, type(adapter).__name__)

    # --- loading and saving ------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        adapter: ImagePromptAdapter | str | Path | None = None,
        image_encoder: ImageEncoder | str | Path | None = None,
        torch_dtype: torch.dtype = torch.float32,
        source: str | None = None,
        **options: Any,
    ) -> Self:
        """Load a pipeline with its adapter.

        Args:
            model: folder, hub name or zoo:NAME of a diffusers pipeline, or of one saved by `save_pretrained`.
            adapter: an adapter, or its folder, file, hub name or zoo:NAME; by default the one saved with the pipeline.
            image_encoder: as for the constructor.
            torch_dtype: of all weights.
            source: which of its sources the adapter is used with, by name, where it has several.
            options: of `DiffusionPipeline.from_pretrained`.
        """
        if adapter is None:
            adapter = Path(model).expanduser() / ADAPTER_FOLDER
            if not adapter.is_dir():
                raise InputError(f"{model} has no folder {ADAPTER_FOLDER}; give adapter=.")
        if not isinstance(adapter, ImagePromptAdapter):
            adapter = load_adapter(adapter)
        pipe = load_pipeline(model, torch_dtype, **options)
        return cls(pipe, choose_source(adapter, source), image_encoder).to(dtype=torch_dtype)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save the pipeline, and in it the adapter with the name of its image encoder.

        `options` are those of `DiffusionPipeline.save_pretrained`.
        """
        if self.image_encoder is not None:
            if self.image_encoder.path is None:
                raise InputError("The image encoder was made in memory; save it, and give the pipeline its folder.")
            self.adapter.set_image_encoder(self.image_encoder.path)
        self.pipe.save_pretrained(save_directory, **options)
        self.adapter.save_pretrained(Path(save_directory) / ADAPTER_FOLDER)

    # --- what the wrapped pipeline has -------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the pipeline, the adapter and the image encoder; the arguments of `DiffusionPipeline.to`."""
        self.pipe.to(*args, **kwargs)
        kwargs.pop("silence_dtype_warnings", None)
        target = _device_and_dtype(*args, **kwargs)
        self.adapter.to(**target)
        if self.image_encoder is not None:
            self.image_encoder.to(**target)
        return self

    def __getattr__(self, name: str) -> Any:
        if name in self._OWN or name.startswith("__"):  # not set yet, for instance while the object is copied
            raise AttributeError(name)
        return getattr(self.pipe, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.pipe, name, value)

    def __repr__(self) -> str:
        adapter, encoder = self.adapter, self.image_encoder
        return (
            f"{type(self).__name__}(\n"
            f"  pipe={type(self.pipe).__name__} with {type(self.backbone.denoiser).__name__},\n"
            f"  adapter={type(adapter).__name__} for {len(adapter.sites)} sites, {adapter.tokens} tokens each,\n"
            f"  image_encoder={encoder.key if encoder is not None else None},\n"
            f")"
        )

    # --- from references to features ---------------------------------------------------------------------------------

    def encode_image_prompt(self, image_prompt: ImagePrompt) -> Tensor:
        """Image embeddings, which a later call takes as `image_prompt_embeds`.

        [references, image_embed_dim], or [references, encoder tokens, image_embed_dim] for an adapter of tokens.
        """
        images = load_references(image_prompt)
        if self.image_encoder is None:
            raise InputError(
                f"The adapter does not say where its image encoder is ({self.adapter.image_encoder or 'none named'}); "
                f"give the pipeline image_encoder=, a CLIP vision model with embeddings of width "
                f"{self.adapter.image_embed_dim}, or the call image_prompt_embeds=."
            )
        return self.image_encoder.to(self.backbone.device)(images)

    def reference_embeds(self, image_prompt: ImagePrompt | None, image_prompt_embeds: Tensor | None) -> Tensor | None:
        """Image embeddings [references, image_embed_dim] of a call; None where it has no references.

        Raises InputError where both arguments are given, or embeddings of another shape.
        """
        if image_prompt is not None and image_prompt_embeds is not None:
            raise InputError("Both image_prompt and image_prompt_embeds are given; give one of them.")
        if image_prompt is not None:
            return self.encode_image_prompt(image_prompt)
        if image_prompt_embeds is None:
            return None
        pooled = self.adapter.encoder_output == "pooled"
        tokens = "" if pooled else "encoder tokens, "
        expected = f"expected a tensor [references, {tokens}{self.adapter.image_embed_dim}]"
        if not isinstance(image_prompt_embeds, Tensor):
            raise InputError(f"image_prompt_embeds is of type {type(image_prompt_embeds).__name__}; {expected}.")
        if (
            image_prompt_embeds.ndim != (2 if pooled else 3)
            or image_prompt_embeds.shape[-1] != self.adapter.image_embed_dim
        ):
            raise InputError(f"image_prompt_embeds has shape {list(image_prompt_embeds.shape)}; {expected}.")
        return image_prompt_embeds

    @torch.no_grad()
    def features(self, embeds: Tensor) -> tuple[SiteFeatures, SiteFeatures]:
        """Features of each reference, and as many of "no image". They hold for every step, prompt and seed."""
        device: Any = self.backbone.device
        self.adapter.to(device)  # only now, since the wrapped pipeline may have moved
        embeds = embeds.to(device, self.adapter.dtype)
        no_image = self.image_encoder.to(device).unconditional() if self.image_encoder is not None else None
        negative = self.adapter(self.adapter.unconditional(embeds[:1], no_image))
        return self.adapter(embeds), negative.map(lambda t: t.expand(len(embeds), -1, -1))

    def features_for_batch(
        self, embeds: Tensor, prompts: int, images_per_prompt: int = 1
    ) -> tuple[SiteFeatures, SiteFeatures]:
        """Features with one row for each image of a call: of its reference, and of "no image".

        Raises InputError where there is neither one reference for all prompts nor one for each.
        """
        if len(embeds) not in (1, prompts):
            raise InputError(
                f"There are {len(embeds)} references for {prompts} prompts; give one for all or one for each."
            )
        repeats = images_per_prompt * (prompts if len(embeds) == 1 else 1)
        positive, negative = (f.repeat_interleave(repeats).to(self.backbone.dtype) for f in self.features(embeds))
        return positive, negative

    # --- the call ----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        *args: Any,
        image_prompt: ImagePrompt | None = None,
        image_prompt_embeds: Tensor | None = None,
        image_prompt_scale: Scale = 1.0,
        **kwargs: Any,
    ) -> Any:
        """Generate images as the wrapped pipeline does, with one reference for all prompts or one for each.

        Args:
            args: of the wrapped pipeline, whose output this returns.
            image_prompt: a PIL image, path, URL, array [height, width, 3], tensor [3, height, width] or
                [images, 3, height, width], or a list of these.
            image_prompt_embeds: [references, image_embed_dim] instead, from `encode_image_prompt`.
            image_prompt_scale: weight of the image prompt: a number, or one for each site. 0 is the plain model.
            kwargs: of the wrapped pipeline.

        Raises InputError for an argument that the wrapped pipeline does not have, and for references or scales that do
        not fit.
        """
        call = bind(self.pipe, args, kwargs)
        call.arguments = self.backbone.call_options() | call.arguments
        call.apply_defaults()
        for name in ("prompt", "negative_prompt"):
            if isinstance(given := call.arguments.get(name), list):
                call.arguments[name] = list(given)  # Z-Image's pipeline writes its chat marks into the list
        scales = site_scales(image_prompt_scale, len(self.backbone.sites), "image_prompt_scale")
        with _LOCKS.setdefault(self.backbone.denoiser, RLock()):
            _check_no_native_adapter(self.pipe, self.backbone.denoiser)
            embeds = self.reference_embeds(image_prompt, image_prompt_embeds)
            with nullcontext() if embeds is None else self._attached(embeds, scales, call.arguments):
                return self.pipe(*call.args, **call.kwargs)  # pyright: ignore[reportCallIssue]

    def _attached(self, embeds: Tensor, scales: list[float], options: dict[str, Any]) -> AbstractContextManager:
        images_per_prompt = options.get("num_images_per_prompt") or options.get("num_videos_per_prompt") or 1
        positive, negative = self.features_for_batch(embeds, prompt_count(options), images_per_prompt)
        perturbed = is_perturbed(self.pipe, options)
        return attach(self.backbone.denoiser, self.backbone.sites, positive, scales, negative, perturbed)


def _check_no_native_adapter(pipe: DiffusionPipeline, denoiser: nn.Module) -> None:
    """InputError where diffusers has put an IP-Adapter of its own into the attention processors."""
    if any(hasattr(module, "to_k_ip") for module in denoiser.modules()):
        raise InputError(
            f"The {type(pipe).__name__} has one of diffusers' own IP-Adapters loaded (load_ip_adapter), "
            f"beside which an image prompt cannot run; call its unload_ip_adapter() first."
        )


def _check_sites(pipe: DiffusionPipeline, backbone: Backbone, adapter: ImagePromptAdapter) -> None:
    """InputError where the adapter is for other sites; a published file numbers its sites instead of naming them."""
    names = not all(site.name.isdigit() for site in adapter.sites)
    if (difference := differing_site(backbone.sites, adapter.sites, names=names)) is not None:
        raise InputError(
            f"The adapter is not for the {type(backbone.denoiser).__name__} of {type(pipe).__name__}: {difference} "
            f"(expected: the model, found: the adapter); load the adapter that was made for this model, or transfer it."
        )


def _device_and_dtype(*args: Any, device: Any = None, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The arguments of a pipeline's `to` by name: a device, a dtype, or both, in this order."""
    for arg in args:
        device, dtype = (device, arg) if isinstance(arg, torch.dtype) else (arg, dtype)
    return {"device": device, "dtype": dtype}
