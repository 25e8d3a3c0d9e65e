"""Image prompts in one model: the second term of eq. 13, `scale mask Attention(q, k^, v^)`, at each site.

ComfyUI calls a model with the rows of several conditionings in one batch and says which (`cond_or_uncond`) and at which
noise level (`sigmas`). A wrapper around the call notes these; the patches inside the model (`patches.py`) then ask for
the term at each site.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a4a import InputError
from a4a.image_terms import RegionMask, TokenGrid

from .features import ImagePrompts, Tokens

CONDITIONINGS = ("the prompt", "the negative prompt")
"""By ComfyUI's numbers."""


@dataclass(frozen=True, eq=False)
class Region:
    """Where in the picture image prompts act."""

    mask: Tensor
    """[1 or images, height, width] in [0, 1], stretched over the picture."""
    patch_size: int
    """Latents along each side of one of the model's image rows."""
    halved: bool
    """Whether the model, a U-Net, runs on coarser grids inside."""

    def fitted(self, latents: Tensor) -> RegionMask:
        """The mask for latents [batch, channels, (frames,) height, width]."""
        frames = latents.shape[2] if latents.ndim == 5 else 1
        height, width = (-(-side // self.patch_size) for side in latents.shape[-2:])
        region = RegionMask(self.mask.to(latents.device))
        region.fit(TokenGrid(frames, height, width, self.halved))
        return region


class Injection:
    """The terms of image prompts.

    Args:
        prompts: with one row for all images of a batch, or one for each.
        scales: one for each site.
        course: a number for each noise level, by which all scales are multiplied.
        region: where in the picture they act; everywhere by default.
    """

    def __init__(
        self,
        prompts: ImagePrompts,
        scales: Sequence[float],
        course: Callable[[float], float] = lambda sigma: 1.0,
        region: Region | None = None,
    ):
        self._sides, self._scales, self._course = [prompts.prompt, prompts.negative], scales, course
        self._sites, self._region = prompts.sites, region
        self._mask: RegionMask | None = None
        self._conditionings: Sequence[int] = ()
        self._factor = 0.0
        self._reached = False

    def around_model(
        self,
        model: Callable,
        latents: Tensor,
        time: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """A wrapper of ComfyUI's kind APPLY_MODEL; all arguments but the first are those of the call.

        InputError where no site asked for its term: this version of ComfyUI, or another node, has bypassed the patches.
        """
        options = transformer_options or {}
        self._conditionings = options.get("cond_or_uncond", (0,))
        if unknown := [number for number in self._conditionings if number >= len(CONDITIONINGS)]:
            raise InputError(
                f"The guider runs the model on conditioning number {unknown[0]}, and it is not known what an image "
                f"prompt should do there; use a guider with a prompt and a negative prompt alone."
            )
        self._factor = self._course(float(options["sigmas"][0]) if "sigmas" in options else float(time[0]))
        self._sides = [side.to(latents.device) for side in self._sides]
        self._mask = None if self._region is None else self._region.fitted(latents)
        found = model(latents, time, c_concat, c_crossattn, control, transformer_options, **kwargs)
        if not self._reached:
            raise InputError(
                "The model ran without asking for the image prompt at any site, so it would have had no effect; update "
                "ComfyUI, and take off nodes that replace the model's blocks or its attention."
            )
        return found

    def term(self, site: int, query: Tensor, key_norm: nn.Module | None = None) -> Tensor | None:
        """`scale mask Attention(q, k^, v^)` [batch, rows, width] at a site, by its number; None where the scale is 0.

        Args:
            site: its number.
            query: of the rows of the drawn image, normalised as the model does: [batch, heads, rows, head width].
            key_norm: the model's own norm of keys.
        """
        self._reached = True
        scale = self._scales[site] * self._factor
        if not scale:
            return None
        parts = query.chunk(len(self._conditionings))
        image = torch.cat(
            [
                _attention(part, self._sides[number], site, key_norm)
                for part, number in zip(parts, self._conditionings, strict=True)
            ]
        )
        if self._mask is not None:
            mask = self._mask.at(image.shape[1], self._sites[site].name).to(image)
            image = image * _for_images(mask, len(parts[0]), "masks").repeat(len(parts), 1, 1)
        return scale * image


def _attention(query: Tensor, side: Tokens, site: int, key_norm: nn.Module | None) -> Tensor:
    """Attention(q, k^, v^) [images, rows, width] of the images of one conditioning."""
    key, value = (
        heads(_for_images(t[site].to(query), len(query), "image prompts"), query.shape[-1])
        for t in (side.features.keys, side.features.values)
    )
    key = key if key_norm is None else key_norm(key)
    bias = None if side.counts is None else side.counts.to(query).log()[:, None, None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(-2)


def _for_images(rows: Tensor, images: int, what: str) -> Tensor:
    """[1 or images, ...] as [images, ...]."""
    if len(rows) not in (1, images):
        raise InputError(
            f"There are {what} for {len(rows)} images but the model draws {images} at once; give one for all, or a "
            f"batch of {len(rows)} latents."
        )
    return rows.expand(images, *rows.shape[1:])


def heads(rows: Tensor, head_width: int) -> Tensor:
    """[batch, rows, width] as [batch, heads, rows, head width]."""
    return rows.unflatten(-1, (-1, head_width)).transpose(1, 2)
