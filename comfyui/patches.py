"""The patches through which an image prompt enters a model that ComfyUI has loaded.

| family | query | term |
|---|---|---|
| U-Nets | `attn2_replace` gets q after its projection | its result enters the output projection |
| FLUX.1, FLUX.2, Chroma | `attn1_patch` gets q after its norm, before its rotation | `attn1_output_patch`, before the output projection |
| Qwen-Image | `attn1_patch`, likewise | the forward of `to_out.0`, an object patch |
| PixArt | the forward of `q_linear`, an object patch | the forward of `proj`, an object patch |

So all are exactly eq. 13. Patches that are there already, of other image prompts too, stay in effect.
"""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from a4a import InputError

from .injection import Injection, heads
from .sites import Family, ModelSite

Attention = Callable[..., Tensor]
"""ComfyUI's attention of the text: q, k, v [batch, rows, width] and the number of heads, to [batch, rows, width]."""


def patch_model(model: Any, family: Family, sites: Sequence[ModelSite], injection: Injection, attention: Attention):
    """A clone of a ComfyUI model with an image prompt at the sites, in the order of its features.

    `attention` is what computes the text's part where a patch replaces it, ComfyUI's `optimized_attention`.
    """
    model = model.clone()
    if family == "unet":
        _replace_cross_attention(model, sites, injection, attention)
    elif family == "flux":
        _patch_joint_attention(model, sites, injection)
    elif family == "qwen_image":
        _patch_image_output(model, sites, injection)
    else:
        _patch_projections(model, sites, injection)
    model.add_wrapper_with_key("apply_model", f"a4a {uuid4()}", injection.around_model)
    return model


def denoiser_of(model: Any) -> nn.Module:
    """The denoiser of a ComfyUI model."""
    return model.get_model_object("diffusion_model")


# --- U-Nets ----------------------------------------------------------------------------------------------------------


def _replace_cross_attention(model: Any, sites: Sequence[ModelSite], injection: Injection, attention: Attention):
    for number, site in enumerate(sites):
        replacements = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
        text = replacements.get(site.block) or replacements.get(site.block[:2]) or _TextAttention(attention)
        model.set_model_attn2_replace(_CrossAttention(injection, number, text), *site.block)


class _TextAttention:
    """A cross-attention to text as it is without patches."""

    def __init__(self, attention: Attention):
        self.attention = attention

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        return self.attention(
            query,
            key,
            value,
            options["n_heads"],
            attn_precision=options.get("attn_precision"),
            transformer_options=options,
        )


class _CrossAttention:
    """Eq. 13: what `text` gives, plus the image's term."""

    def __init__(self, injection: Injection, number: int, text: Callable[..., Tensor]):
        self.injection, self.number, self.text = injection, number, text

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        attended = self.text(query, key, value, options)
        image = self.injection.term(self.number, heads(query, query.shape[-1] // options["n_heads"]))
        return attended if image is None else attended + image


# --- FLUX and Qwen-Image: text and image rows in one attention, text first -------------------------------------------


def _drawn_rows(options: dict[str, Any]) -> slice:
    """The drawn image's rows in the sequence; those of reference images follow."""
    start, end = options["img_slice"]
    return slice(start, end - sum(options.get("reference_image_num_tokens") or ()))


def _patch_joint_attention(model: Any, sites: Sequence[ModelSite], injection: Injection):
    denoiser = denoiser_of(model)
    numbers = {site.block: number for number, site in enumerate(sites)}
    norms = [_part(denoiser, site.key_norm) for site in sites]
    key = f"a4a query {uuid4()}"

    def note_query(query: Tensor, *_: Any, extra_options: dict[str, Any], **__: Any) -> dict[str, Tensor]:
        if _block(extra_options) in numbers:
            extra_options[key] = query[:, :, _drawn_rows(extra_options)]
        return {}

    def add_term(attended: Tensor, extra_options: dict[str, Any]) -> Tensor:
        number = numbers.get(_block(extra_options))
        if number is None:
            return attended
        if key not in extra_options:
            raise InputError(
                f"The attention of {sites[number].module} is not patched as a whole in this version of ComfyUI; "
                f"update it."
            )
        image = injection.term(number, extra_options.pop(key), norms[number])
        return attended if image is None else _add_rows(attended, image, _drawn_rows(extra_options).start)

    model.set_model_attn1_patch(note_query)
    model.set_model_attn1_output_patch(add_term)


def _block(options: dict[str, Any]) -> tuple[str, int]:
    return options["block_type"], options["block_index"]


def _patch_image_output(model: Any, sites: Sequence[ModelSite], injection: Injection):
    denoiser = denoiser_of(model)
    noted: list[Tensor] = []

    def note_query(query: Tensor, *_: Any, extra_options: dict[str, Any], **__: Any) -> dict[str, Tensor]:
        noted[:] = [query[:, :, _drawn_rows(extra_options)]]
        return {}

    model.set_model_attn1_patch(note_query)
    for number, site in enumerate(sites):
        name = f"{site.module}.to_out.0"
        _patch_forward(model, name, _AddTerm(injection, number, noted, name, _part(denoiser, site.key_norm)))


# --- PixArt ----------------------------------------------------------------------------------------------------------


def _patch_projections(model: Any, sites: Sequence[ModelSite], injection: Injection):
    denoiser = denoiser_of(model)
    for number, site in enumerate(sites):
        noted: list[Tensor] = []
        head_width = site.site.width // _part(denoiser, site.module).num_heads
        _patch_forward(model, f"{site.module}.q_linear", _NoteQuery(noted, head_width))
        _patch_forward(model, f"{site.module}.proj", _AddTerm(injection, number, noted, f"{site.module}.proj"))


class _NoteQuery:
    """Keeps what a projection of queries gives."""

    def __init__(self, noted: list[Tensor], head_width: int):
        self.noted, self.head_width = noted, head_width

    def __call__(self, forward: Callable[..., Tensor], hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        query = forward(hidden, *args, **kwargs)
        self.noted[:] = [heads(query, self.head_width)]
        return query


class _AddTerm:
    """Adds the image's term to what enters an output projection; the drawn image's rows come first in it."""

    def __init__(
        self, injection: Injection, number: int, noted: list[Tensor], name: str, key_norm: nn.Module | None = None
    ):
        self.injection, self.number, self.noted, self.name, self.key_norm = injection, number, noted, name, key_norm

    def __call__(self, forward: Callable[..., Tensor], attended: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not self.noted:
            raise InputError(
                f"{self.name} runs without a query having been seen before it, in this version of ComfyUI; update it."
            )
        image = self.injection.term(self.number, self.noted.pop(), self.key_norm)
        return forward(attended if image is None else _add_rows(attended, image, 0), *args, **kwargs)


# --- shared ----------------------------------------------------------------------------------------------------------


def _patch_forward(model: Any, name: str, patch: Callable[..., Tensor]):
    """Exchanges the forward of a part of the denoiser by one that calls `patch` with the forward that is there.

    The part itself stays, with the names of its weights, so that LoRA and offloading find them.
    """
    path = f"diffusion_model.{name}.forward"
    forward = model.get_model_object(path)
    model.add_object_patch(path, lambda *args, **kwargs: patch(forward, *args, **kwargs))


def _part(denoiser: nn.Module, name: str | None) -> Any:
    return None if name is None else denoiser.get_submodule(name)


def _add_rows(attended: Tensor, image: Tensor, start: int) -> Tensor:
    """Adds [batch, rows, width] to the rows from `start` on."""
    if image.shape == attended.shape:
        return attended + image
    end = start + image.shape[1]
    return torch.cat([attended[:, :start], attended[:, start:end] + image, attended[:, end:]], dim=1)
