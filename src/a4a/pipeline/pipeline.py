"""ImagePromptPipeline: a diffusers pipeline, an adapter and its image encoder, called as one pipeline."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import PushToHubMixin
from torch import Tensor, nn

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.loading import load_adapter
from a4a.adapters.multi_source import choose_source
from a4a.backbones import Backbone, backbone_for, load_pipeline
from a4a.encoders import ImageEncoder
from a4a.errors import InputError
from a4a.features import SiteFeatures, are_named, differing_site
from a4a.injection import Injection
from a4a.pipeline.adapter import Adapters, Encoders, encoded_adapters
from a4a.pipeline.arguments import bind, plain_call, prompt_count
from a4a.pipeline.course import Course, counted_steps
from a4a.pipeline.guidance import check_guidance, check_negatives, is_perturbed
from a4a.pipeline.image_prompt import ImagePrompt, ImagePrompts, courses_of, prompts_of_pictures
from a4a.pipeline.references import References, load_references
from a4a.pipeline.saving import check_saving, load_saved_adapters, save_with_adapters
from a4a.pipeline.scales import SiteScale, scales_of
from a4a.pipeline.terms import image_terms

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
            Several adapters by names of your own: `ImagePrompt(..., adapter=name)` says which one it goes through.
        image_encoder: the encoder, or its name or folder; by default the one that the adapter names. An adapter that
            names none, as published files do, then takes image embeddings alone. For several adapters, by their names.

    Raises InputError where an adapter is for other sites or another image encoder, where `pipe` guides in a way that
    does not say which rows of its batches are prompts, and where one of diffusers' own IP-Adapters is loaded.
    """

    _OWN: ClassVar = {"pipe", "backbone", "adapters"}

    def __init__(self, pipe: DiffusionPipeline, adapter: Adapters, image_encoder: Encoders = None):
        check_guidance(pipe)
        self.pipe, self.backbone = pipe, backbone_for(pipe)
        _check_no_native_adapter(pipe, self.backbone.denoiser)
        self.adapters = encoded_adapters(adapter, image_encoder)
        self.backbone.choose_sites_of(self.adapter.sites)
        for one in self.adapters.values():
            _check_sites(pipe, self.backbone, one.adapter)

    @property
    def adapter(self) -> ImagePromptAdapter:
        """The first adapter."""
        return next(iter(self.adapters.values())).adapter

    @property
    def image_encoder(self) -> ImageEncoder | None:
        """That of the first adapter."""
        return next(iter(self.adapters.values())).image_encoder

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
            adapters: Adapters = load_saved_adapters(model)
        else:
            adapters = adapter if isinstance(adapter, ImagePromptAdapter) else load_adapter(adapter)
        if isinstance(adapters, ImagePromptAdapter):
            adapters = choose_source(adapters, source)
        pipe = load_pipeline(model, torch_dtype, **options)
        return cls(pipe, adapters, image_encoder).to(dtype=torch_dtype)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save the pipeline, and in it the adapters with the names of their image encoders.

        `options` are those of `DiffusionPipeline.save_pretrained`. diffusers itself loads the folder with image
        prompts: `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)`.
        """
        check_saving(self.adapters, options)
        self.pipe.save_pretrained(save_directory, **options)
        save_with_adapters(self.pipe, self.adapters, Path(save_directory))

    push_to_hub = PushToHubMixin.push_to_hub
    """As of diffusers' pipelines; it pushes what `save_pretrained` writes."""

    # --- what the wrapped pipeline has -------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the pipeline, the adapter and the image encoder; the arguments of `DiffusionPipeline.to`."""
        self.pipe.to(*args, **kwargs)
        kwargs.pop("silence_dtype_warnings", None)
        target = _device_and_dtype(*args, **kwargs)
        for adapter in self.adapters.values():
            adapter.to(**target)
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

    def encode_image_prompt(self, image_prompt: References, adapter: str | None = None) -> Tensor:
        """Image embeddings, which a later call takes as `image_prompt_embeds`; by default for the first adapter.

        [references, image_embed_dim], or [references, encoder tokens, image_embed_dim] for an adapter of tokens.
        """
        chosen = next(iter(self.adapters)) if adapter is None else adapter
        if chosen not in self.adapters:
            raise InputError(f"adapter is {adapter!r}; the pipeline has {', '.join(self.adapters)}.")
        return self.adapters[chosen].encode(load_references(image_prompt), self.backbone.device)

    def reference_embeds(self, image_prompt: References | None, image_prompt_embeds: Tensor | None) -> Tensor | None:
        """Image embeddings [references, image_embed_dim] of a call; None where it has no references.

        Raises InputError where both arguments are given, or embeddings of another shape.
        """
        _check_one(image_prompt, image_prompt_embeds)
        if image_prompt is not None:
            return self.encode_image_prompt(image_prompt)
        return None if image_prompt_embeds is None else next(iter(self.adapters.values())).check(image_prompt_embeds)

    def features(self, embeds: Tensor) -> tuple[SiteFeatures, SiteFeatures]:
        """Features of each reference, and as many of "no image". They hold for every step, prompt and seed."""
        positive, negative = next(iter(self.adapters.values())).features(embeds, self.backbone.device)
        return positive, negative.map(lambda t: t.expand(len(embeds), -1, -1))

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
        image_prompt: ImagePrompts | None = None,
        image_prompt_embeds: Tensor | None = None,
        image_prompt_scale: SiteScale = 1.0,
        **kwargs: Any,
    ) -> Any:
        """Generate images as the wrapped pipeline does, with one image prompt for all prompts or one for each.

        Args:
            args: of the wrapped pipeline, whose output this returns.
            image_prompt: a PIL image, path, URL, array [height, width, 3] or tensor [3, height, width]; an `ImagePrompt`,
                which says more; or a list with one of these for each prompt. An inner list is for one picture: of
                references, which act as one, or of ImagePrompts, for instance one for each region.
            image_prompt_embeds: [references, image_embed_dim] instead, from `encode_image_prompt`.
            image_prompt_scale: weight of the image prompt: a number, one for each site, or numbers by names of sites or
                of groups (`{"style": 1.0}`). 0 is the plain model. The scales of ImagePrompts are multiplied by it.
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
        scales_of(image_prompt_scale, self.backbone.sites, "image_prompt_scale")
        _check_one(image_prompt, image_prompt_embeds)
        with _LOCKS.setdefault(self.backbone.denoiser, RLock()), ExitStack() as stack:
            _check_no_native_adapter(self.pipe, self.backbone.denoiser)
            if image_prompt_embeds is not None:
                embeds = next(iter(self.adapters.values())).check(image_prompt_embeds)
                image_prompt = [ImagePrompt(embeds=row) for row in embeds.split(1)]
            if image_prompt is not None:
                stack.enter_context(self._attached(image_prompt, image_prompt_scale, call.arguments))
            return plain_call(self.pipe)(*call.args, **call.kwargs)

    @contextmanager
    def _attached(self, image_prompt: ImagePrompts, scale: SiteScale, options: dict[str, Any]) -> Iterator[None]:
        """The image prompts of a call at the sites of its denoiser, and their scales on their course."""
        pictures = prompts_of_pictures(image_prompt, prompt_count(options))
        check_negatives(self.pipe, pictures, options)
        images = options.get("num_images_per_prompt") or options.get("num_videos_per_prompt") or 1
        terms = image_terms(pictures, images, self.adapters, self.backbone, scale)
        courses = courses_of(pictures, images, len(terms))
        with Injection(self.backbone.denoiser, self.backbone.sites) as injection, ExitStack() as stack:
            injection.set_terms(terms, is_perturbed(self.pipe, options))
            if courses is not None:
                stack.enter_context(counted_steps(self.pipe, partial(_follow, injection, courses)))
            yield


def _check_one(image_prompt: Any, image_prompt_embeds: Any) -> None:
    if image_prompt is not None and image_prompt_embeds is not None:
        raise InputError("Both image_prompt and image_prompt_embeds are given; give one of them.")


def _follow(injection: Injection, courses: list[list[Course]], step: int, steps: int) -> None:
    """Sets the scales of one of so many steps."""
    injection.multiply([[course.factor(step, steps) for course in rows] for rows in courses])


def _check_no_native_adapter(pipe: DiffusionPipeline, denoiser: nn.Module) -> None:
    """InputError where diffusers has put an IP-Adapter of its own into the attention processors."""
    if any(hasattr(module, "to_k_ip") for module in denoiser.modules()):
        raise InputError(
            f"The {type(pipe).__name__} has one of diffusers' own IP-Adapters loaded (load_ip_adapter), "
            f"beside which an image prompt cannot run; call its unload_ip_adapter() first."
        )


def _check_sites(pipe: DiffusionPipeline, backbone: Backbone, adapter: ImagePromptAdapter) -> None:
    """InputError where the adapter is for other sites; a published file numbers its sites instead of naming them."""
    if (difference := differing_site(backbone.sites, adapter.sites, names=are_named(adapter.sites))) is not None:
        raise InputError(
            f"The adapter is not for the {type(backbone.denoiser).__name__} of {type(pipe).__name__}: {difference} "
            f"(expected: the model, found: the adapter); load the adapter that was made for this model, or transfer it."
        )


def _device_and_dtype(*args: Any, device: Any = None, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The arguments of a pipeline's `to` by name: a device, a dtype, or both, in this order."""
    for arg in args:
        device, dtype = (device, arg) if isinstance(arg, torch.dtype) else (arg, dtype)
    return {"device": device, "dtype": dtype}
