"""From the image prompts of a call to the terms of eq. 13: a row for each image that is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from a4a.backbones import Backbone
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.image_terms import ImageTerm
from a4a.pipeline.adapter import EncodedAdapter
from a4a.pipeline.image_prompt import ImagePrompt, combined
from a4a.pipeline.references import load_mask, load_references
from a4a.pipeline.scales import SiteScale, scales_of, weight_type_factors


@dataclass(frozen=True)
class _Tokens:
    """Features [1, tokens, width] of one image prompt, and how many times each token counts: once if None."""

    features: SiteFeatures
    counts: Tensor | None = None

    def of_length(self, tokens: int) -> "_Tokens":
        """The same for attention in so many tokens: repeated where that comes out even, else padded."""
        own = self.features.tokens
        if own == tokens:
            return self
        if self.counts is None and tokens % own == 0:
            return _Tokens(self.features.map(lambda t: t.repeat(1, tokens // own, 1)))
        counts = torch.ones(1, own) if self.counts is None else self.counts
        padded = self.features.map(lambda t: F.pad(t, (0, 0, 0, tokens - own)))
        return _Tokens(padded, F.pad(counts, (0, tokens - own)))


@dataclass(frozen=True)
class _Encoded:
    """An image prompt, ready for the sites."""

    prompt: ImagePrompt
    positive: _Tokens
    negative: _Tokens
    scales: Tensor
    """[sites]"""


def image_terms(
    pictures: Sequence[Sequence[ImagePrompt]],
    images_per_prompt: int,
    adapters: Mapping[str, EncodedAdapter],
    backbone: Backbone,
    scale: SiteScale,
) -> list[ImageTerm]:
    """The terms of a call. Rows of prompts with fewer image prompts than others have the scale 0 in the last terms.

    Args:
        pictures: for each prompt, its image prompts. What stands in it more than once is encoded once.
        images_per_prompt: images that are drawn for each prompt, one after the other.
        adapters: by name.
        backbone: of the denoiser.
        scale: by which the scales of all image prompts are multiplied.
    """
    distinct = list({id(prompt): prompt for prompts in pictures for prompt in prompts}.values())
    factors = scales_of(scale, backbone.sites, "image_prompt_scale")
    encoded: dict[int, _Encoded] = {}
    for name, adapter in adapters.items():
        own = [prompt for prompt in distinct if (prompt.adapter or next(iter(adapters))) == name]
        for prompt, positive, negative in _tokens(own, adapter, backbone):
            scales = scales_of(prompt.scale, backbone.sites, "An ImagePrompt's scale") * factors
            scales = torch.from_numpy(scales * weight_type_factors(prompt.weight_type, backbone.sites)).float()
            encoded[id(prompt)] = _Encoded(prompt, positive, negative, scales)
    if unknown := [prompt.adapter for prompt in distinct if id(prompt) not in encoded]:
        raise InputError(f"An ImagePrompt names the adapter {unknown[0]!r}; the pipeline has {', '.join(adapters)}.")
    terms = []
    for place in range(max(len(prompts) for prompts in pictures)):
        column = [encoded[id(p[place])] if place < len(p) else None for p in pictures]
        terms.append(_term([one for one in column for _ in range(images_per_prompt)], backbone))
    return terms


def _tokens(
    prompts: Sequence[ImagePrompt], adapter: EncodedAdapter, backbone: Backbone
) -> list[tuple[ImagePrompt, _Tokens, _Tokens]]:
    """Tokens of each prompt and of its negative, all made in one pass through encoder and adapter."""
    if not prompts:
        return []
    parts = _embeds(prompts, adapter, backbone)
    weighted = [combined(own, p.weights_for(len(own)), p.combine) for p, own in zip(prompts, parts, strict=False)]
    rows = [*weighted, *parts[len(prompts) :]]
    features, no_image = adapter.features(torch.cat(rows), backbone.device)
    made = iter(_cut(features.to(backbone.dtype), [len(row) for row in rows]))
    positives = [
        _Tokens(one, p.counts_for(len(own), one.tokens // len(own)))
        for p, own, one in zip(prompts, parts, made, strict=False)
    ]
    nothing = _Tokens(no_image.to(backbone.dtype))
    negatives = [nothing if prompt.negative is None else _Tokens(next(made)) for prompt in prompts]
    return list(zip(prompts, positives, negatives, strict=True))


def _embeds(prompts: Sequence[ImagePrompt], adapter: EncodedAdapter, backbone: Backbone) -> list[Tensor]:
    """Image embeddings of each prompt, and then of each negative that is given; all images are encoded at once."""
    given = [*(p.references for p in prompts), *(p.negative for p in prompts if p.negative is not None)]
    loaded = [[] if references is None else load_references(references) for references in given]
    images = [image for one in loaded for image in one]
    parts: list[Tensor] = [torch.empty(0)] * len(given)
    if images:
        parts = list(adapter.encode(images, backbone.device).split([len(one) for one in loaded]))
    for i, prompt in enumerate(prompts):
        if prompt.embeds is not None:
            parts[i] = adapter.check(prompt.embeds)
    return [part.to(backbone.device, adapter.adapter.dtype) for part in parts]


def _cut(features: SiteFeatures, lengths: Sequence[int]) -> list[SiteFeatures]:
    """Features of so many rows each, joined to one row with the tokens of all."""
    parts, start = [], 0
    for length in lengths:
        rows = features[slice(start, start + length)]
        parts.append(rows.map(lambda t: t.flatten(0, 1).unsqueeze(0)))
        start += length
    return parts


def _term(rows: Sequence[_Encoded | None], backbone: Backbone) -> ImageTerm:
    """One term of images that are drawn together; None has the features of another one, and the scale 0."""
    any_row = next(row for row in rows if row is not None)
    filled = [row or any_row for row in rows]
    tokens = max(side.features.tokens for row in filled for side in (row.positive, row.negative))
    positive, negative = ([getattr(row, side).of_length(tokens) for row in filled] for side in ("positive", "negative"))
    return ImageTerm(
        SiteFeatures.stack([side.features for side in positive]),
        torch.stack([torch.zeros(len(backbone.sites)) if row is None else row.scales for row in rows]),
        SiteFeatures.stack([side.features for side in negative]),
        _joined_counts(positive),
        _joined_counts(negative),
        _joined_masks([row.prompt for row in filled]),
    )


def _joined_counts(rows: Sequence[_Tokens]) -> Tensor | None:
    if all(row.counts is None for row in rows):
        return None
    return torch.cat([torch.ones(1, row.features.tokens) if row.counts is None else row.counts for row in rows])


def _joined_masks(prompts: Sequence[ImagePrompt]) -> Tensor | None:
    """[rows, height, width] in the size of the largest; None where no prompt has a mask."""
    if all(prompt.mask is None for prompt in prompts):
        return None
    masks = [torch.ones(1, 1) if prompt.mask is None else load_mask(prompt.mask) for prompt in prompts]
    size = [max(mask.shape[side] for mask in masks) for side in (0, 1)]
    return torch.cat([F.interpolate(mask.cpu()[None, None], size, mode="bilinear")[0] for mask in masks])
