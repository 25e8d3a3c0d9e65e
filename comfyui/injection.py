"""One image prompt in one model: the second term of eq. 13, `scale Attention(q, k^, v^)`, at each site.

ComfyUI calls a model with the rows of several conditionings in one batch and says which (`cond_or_uncond`) and at which
noise level (`sigmas`). A wrapper around the call notes these; the patches inside the model (`patches.py`) then ask for
the term at each site.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a4a import InputError, SiteFeatures

CONDITIONINGS = ("the prompt", "the negative prompt")
"""By ComfyUI's numbers."""


class Injection:
    """The terms of one image prompt.

    Args:
        features: one row for all images of a batch, or one for each.
        negative: what the rows of the negative prompt get; as many rows.
        scales: one for each site.
        course: a number for each noise level, by which all scales are multiplied.
    """

    def __init__(
        self,
        features: SiteFeatures,
        negative: SiteFeatures,
        scales: Sequence[float],
        course: Callable[[float], float] = lambda sigma: 1.0,
    ):
        self._features, self._scales, self._course = [features, negative], scales, course
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
        self._features = [f.to(latents.device) for f in self._features]
        found = model(latents, time, c_concat, c_crossattn, control, transformer_options, **kwargs)
        if not self._reached:
            raise InputError(
                "The model ran without asking for the image prompt at any site, so it would have had no effect; update "
                "ComfyUI, and take off nodes that replace the model's blocks or its attention."
            )
        return found

    def term(self, site: int, query: Tensor, key_norm: nn.Module | None = None) -> Tensor | None:
        """`scale Attention(q, k^, v^)` [batch, rows, width] at a site, by its number; None where the scale is 0.

        Args:
            site: its number.
            query: of the rows of the drawn image, normalised as the model does: [batch, heads, rows, head width].
            key_norm: the model's own norm of keys.
        """
        self._reached = True
        scale = self._scales[site] * self._factor
        if not scale:
            return None
        key, value = (heads(t.to(query), query.shape[-1]) for t in self._rows(site, query.shape[0]))
        key = key if key_norm is None else key_norm(key)
        image = F.scaled_dot_product_attention(query, key, value)
        return scale * image.transpose(1, 2).flatten(-2)

    def _rows(self, site: int, batch: int) -> tuple[Tensor, Tensor]:
        """Keys and values [batch, tokens, width], in the order of the conditionings in the batch."""
        images = batch // len(self._conditionings)
        given = self._features[0].batch
        if given not in (1, images):
            raise InputError(
                f"There are image prompts for {given} images but the model draws {images} at once; "
                f"give one for all, or a batch of {given} latents."
            )
        features = [self._features[number] for number in self._conditionings]
        return (
            torch.cat([f.keys[site].expand(images, -1, -1) for f in features]),
            torch.cat([f.values[site].expand(images, -1, -1) for f in features]),
        )


def heads(rows: Tensor, head_width: int) -> Tensor:
    """[batch, rows, width] as [batch, heads, rows, head width]."""
    return rows.unflatten(-1, (-1, head_width)).transpose(1, 2)
