"""ImagePrompt: references with all that says how, where, when and how strongly they act."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from a4a.errors import InputError
from a4a.pipeline.course import Course
from a4a.pipeline.references import Reference, References
from a4a.pipeline.scales import SiteScale, weight_type_name

COMBINATIONS = ("concat", "average", "norm average", "add", "subtract")


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """One reference or several that act as one, and how.

        ImagePrompt("cat.png", scale=0.8, course=Course(end=0.5))
        ImagePrompt(["cat.png", "dog.png"], combine="average", weights=[2, 1])
        [[ImagePrompt("cat.png", mask=left), ImagePrompt("dog.png", mask=right)]]    # both in one picture

    Raises InputError where fields do not fit each other.
    """

    references: References | None = None
    """An image in any form, or a list of these: all for one picture."""
    _: KW_ONLY
    embeds: Tensor | None = None
    """Image embeddings instead, a row for each reference, from `encode_image_prompt`."""
    weights: float | Sequence[float] = 1.0
    """Of each reference, against the others."""
    combine: str = "concat"
    """How several references act as one:

    concat: the attention sees the tokens of all; a reference of weight 2 counts as if it were there twice.
    average, add: weighted mean or sum of the image embeddings.
    norm average: weighted mean of their directions, with their mean length.
    subtract: the first embedding without the others.
    """
    scale: SiteScale = 1.0
    """A number, one for each site, or numbers by groups or names of sites: `{"style": 1.0}`, `{"up_blocks.0": 0.5}`."""
    weight_type: str = "linear"
    """How the scale is spread over the sites, by the names of ComfyUI's IP-Adapter nodes (`pipeline/scales.py`)."""
    course: Course = field(default_factory=Course)
    """How the scale changes over the steps."""
    mask: Reference | None = None
    """Where in the picture it acts: white there, black elsewhere, stretched over the picture; everywhere by default."""
    negative: References | None = None
    """What the picture should not show: guidance sees this image, or several, where it sees none by default."""
    adapter: str | None = None
    """Which adapter of the pipeline makes the features; by default the first."""

    def __post_init__(self):
        if (self.references is None) == (self.embeds is None):
            raise InputError("An ImagePrompt needs either references or embeds.")
        name = self.combine.replace("_", " ").replace("-", " ") if isinstance(self.combine, str) else self.combine
        if name not in COMBINATIONS:
            raise InputError(f"combine is {self.combine!r}; expected one of {', '.join(COMBINATIONS)}.")
        object.__setattr__(self, "combine", name)
        object.__setattr__(self, "weight_type", weight_type_name(self.weight_type))

    def weights_for(self, references: int) -> Tensor:
        """The weights of so many references [references]; InputError for another number of them, or useless ones."""
        weights: Any = self.weights
        given = [weights] * references if isinstance(weights, Real) else list(weights)
        if len(given) != references:
            raise InputError(
                f"There are {len(given)} weights for {references} references; give one number, or one each."
            )
        weights = torch.tensor([float(weight) for weight in given])
        least = -float("inf") if self.combine in ("add", "subtract") else 0
        if not weights.isfinite().all() or weights.min() < least or (least == 0 and not weights.any()):
            raise InputError(f"The weights are {given}; {self.combine} takes finite ones from 0 on, not all 0.")
        return weights

    def counts_for(self, references: int, tokens: int) -> Tensor | None:
        """How many times each token of all references counts in the attention [1, references * tokens], `tokens` each.

        None for once each, which is also so where the references are combined before they have tokens.
        """
        weights = self.weights_for(references)
        if self.combine != "concat" or bool((weights == weights[0]).all()):
            return None
        return weights.repeat_interleave(tokens)[None]


def combined(embeds: Tensor, weights: Tensor, combine: str) -> Tensor:
    """Image embeddings [references, ...] as those that an adapter takes: one row, or for `concat` as many as before."""
    if combine == "concat":
        return embeds
    weights = weights.to(embeds).view(-1, *[1] * (embeds.ndim - 1))
    if combine == "add":
        return (weights * embeds).sum(0, keepdim=True)
    if combine == "subtract":
        return (weights * torch.cat([embeds[:1], -embeds[1:]])).sum(0, keepdim=True)
    weights = weights / weights.sum()
    if combine == "average":
        return (weights * embeds).sum(0, keepdim=True)
    lengths = embeds.norm(dim=-1, keepdim=True)
    direction = (weights * embeds / lengths.clamp_min(1e-12)).sum(0, keepdim=True)
    return torch.nn.functional.normalize(direction, dim=-1) * (weights * lengths).sum(0, keepdim=True)


ImagePrompts = References | ImagePrompt | Sequence["Reference | ImagePrompt | Sequence[Reference | ImagePrompt]"]
"""What a call takes: one for all prompts, or a list with one for each prompt.

An inner list is for one picture: of references, which act as one ImagePrompt, or of ImagePrompts, each for itself.
"""


def prompts_of_pictures(image_prompt: ImagePrompts, prompts: int) -> list[list[ImagePrompt]]:
    """For each prompt of a call, its image prompts; InputError where there is neither one for all nor one for each."""
    if isinstance(image_prompt, Tensor) and image_prompt.ndim == 4:
        image_prompt = list(image_prompt)
    listed = list(image_prompt) if isinstance(image_prompt, list | tuple) else [image_prompt]
    pictures = [_of_picture(item, i) for i, item in enumerate(listed)]
    if len(pictures) not in (1, prompts):
        hint = " (several for one picture go into an inner list: [[a, b]])" if prompts == 1 else ""
        raise InputError(
            f"There are {len(pictures)} references for {prompts} prompts; give one for all or one for each{hint}."
        )
    return pictures * (prompts if len(pictures) == 1 else 1)


def _of_picture(item: Any, index: int) -> list[ImagePrompt]:
    if isinstance(item, ImagePrompt):
        return [item]
    if not isinstance(item, list | tuple):
        return [ImagePrompt(item)]
    own = [isinstance(part, ImagePrompt) for part in item]
    if not item or any(own) != all(own):
        raise InputError(
            f"image_prompt[{index}] is {'an empty list' if not item else 'a list of references and ImagePrompts'}; "
            f"expected either references, which act as one, or ImagePrompts."
        )
    return list(item) if all(own) else [ImagePrompt(list(item))]


def courses_of(
    pictures: Sequence[Sequence[ImagePrompt]], images_per_prompt: int, terms: int
) -> list[list[Course]] | None:
    """For each term, the course of each row; None where no scale changes over the steps."""
    if all(prompt.course.is_constant for prompts in pictures for prompt in prompts):
        return None
    return [
        [p[place].course if place < len(p) else Course() for p in pictures for _ in range(images_per_prompt)]
        for place in range(terms)
    ]
