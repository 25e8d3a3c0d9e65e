"""Shared types: attention sites of a denoiser and the image features that are injected there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from a4a.errors import InputError


@dataclass(frozen=True)
class Site:
    """One attention layer of a denoiser, where image features enter."""

    name: str
    """Name of the attention module inside the denoiser; an adapter from a published file has its layer number here."""
    width: int
    """Width of keys and values: key heads x head width."""
    depth: float
    """Position in the order of execution, 0 for the first site and 1 for the last."""
    attention: str = field(default="cross", compare=False)
    """Contract of the attention module (`backbones/attention.py`); known from the denoiser, not saved with adapters."""


def are_named(sites: Sequence[Site]) -> bool:
    """Whether sites have names; a published file numbers them instead."""
    return not all(site.name.isdigit() for site in sites)


def differing_site(expected: Sequence[Site], found: Sequence[Site], *, names: bool = True) -> str | None:
    """Describes the first site in which two lists of sites differ; None where they agree."""
    for i, (a, b) in enumerate(zip(expected, found, strict=False)):
        if a.width != b.width or (names and a.name != b.name):
            return f"site {i} is {b.name} of width {b.width} where {a.name} of width {a.width} is expected"
    shared = min(len(expected), len(found))
    if len(expected) > shared:
        return f"site {shared}, {expected[shared].name} of width {expected[shared].width}, is missing"
    if len(found) > shared:
        return f"site {shared}, {found[shared].name} of width {found[shared].width}, is not expected"
    return None


@dataclass(frozen=True)
class SiteFeatures:
    """Image keys and values for every site, k^ and v^ of eq. 13.

    `keys[i]` and `values[i]` are [batch, tokens, width of site i], for instance [1, 4, 1280].
    Raises ValueError where batch, token count or number of sites disagree.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def __post_init__(self):
        if not self.keys or len(self.keys) != len(self.values):
            raise ValueError(
                f"Features need as many values as keys and at least one; "
                f"found {len(self.keys)} keys, {len(self.values)} values."
            )
        for i, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            if k.ndim != 3 or k.shape != v.shape or k.shape[:2] != self.keys[0].shape[:2]:
                raise ValueError(
                    f"The features of site {i} are keys {tuple(k.shape)} and values {tuple(v.shape)}; "
                    f"expected twice [{self.keys[0].shape[0]}, {self.keys[0].shape[1]}, width]."
                )

    @property
    def batch(self) -> int:
        return self.keys[0].shape[0]

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[1]

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(k.shape[-1] for k in self.keys)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Applies a function to every key and value."""
        return type(self)(tuple(map(function, self.keys)), tuple(map(function, self.values)))

    def to(self, *args, **kwargs) -> Self:
        """Moves or casts every key and value, as Tensor.to."""
        return self.map(lambda t: t.to(*args, **kwargs))

    def repeat_interleave(self, count: int) -> Self:
        """Repeats each row `count` times, as diffusers repeats a prompt for `num_images_per_prompt`."""
        return self.map(lambda t: t.repeat_interleave(count, dim=0))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return self.map(lambda t: t[rows])

    @classmethod
    def stack(cls, parts: Sequence["SiteFeatures"]) -> Self:
        """Concatenates several features along the batch."""
        keys = zip(*(p.keys for p in parts), strict=True)
        values = zip(*(p.values for p in parts), strict=True)
        return cls(tuple(map(torch.cat, keys)), tuple(map(torch.cat, values)))

    def check(self, sites: Sequence[Site], model: str) -> None:
        """Raises InputError where the widths are not those of the `sites` of `model`, the name of a denoiser."""
        if len(self.widths) != len(sites):
            raise InputError(
                f"The features are for {len(self.widths)} sites but {model} has {len(sites)}; "
                f"load an adapter made for it."
            )
        found = [Site(s.name, width, s.depth) for s, width in zip(sites, self.widths, strict=True)]
        if (difference := differing_site(sites, found)) is not None:
            raise InputError(f"The features do not fit {model}: {difference}; load an adapter made for it.")
