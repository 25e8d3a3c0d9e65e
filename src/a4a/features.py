"""Sites and the features that are injected at them: the words that all other rooms share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from a4a.errors import InputError


@dataclass(frozen=True)
class Site:
    """One cross-attention layer of a denoiser, where image features enter."""

    name: str
    """Name of the attention module inside the denoiser; an adapter read from a file has its layer number here."""
    width: int
    """Width of keys and values: heads x head width."""
    depth: float
    """Place in the order of execution, 0 for the first site and 1 for the last."""


def differing_site(expected: Sequence[Site], found: Sequence[Site], *, names: bool = True) -> str | None:
    """In words, the first site in which two denoisers differ; None where they do not."""
    for i, (a, b) in enumerate(zip(expected, found, strict=False)):
        if a.width != b.width or (names and a.name != b.name):
            return f"site {i} is {b.name} of width {b.width} where {a.name} of width {a.width} is expected"
    if len(expected) != len(found):
        longer, which = (expected, "missing") if len(expected) > len(found) else (found, "not expected")
        extra = longer[min(len(expected), len(found))]
        return f"site {min(len(expected), len(found))}, {extra.name} of width {extra.width}, is {which}"
    return None


@dataclass(frozen=True)
class SiteFeatures:
    """Keys and values for every site: `keys[i]` and `values[i]` are [batch, tokens, width of site i].

    Raises ValueError where batch, token count or number of sites disagree.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def __post_init__(self):
        if not self.keys or len(self.keys) != len(self.values):
            raise ValueError(
                f"Features need as many values as keys and at least one; found {len(self.keys)} keys, {len(self.values)} values."
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

    def map(self, function) -> Self:
        """The same function on every key and value."""
        return type(self)(tuple(map(function, self.keys)), tuple(map(function, self.values)))

    def to(self, *args, **kwargs) -> Self:
        """Another device or dtype, as Tensor.to."""
        return self.map(lambda t: t.to(*args, **kwargs))

    def repeat_interleave(self, count: int) -> Self:
        """Each row `count` times in a row, as diffusers repeats a prompt for `num_images_per_prompt`."""
        return self.map(lambda t: t.repeat_interleave(count, dim=0))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return self.map(lambda t: t[rows])

    @classmethod
    def stack(cls, parts: Sequence["SiteFeatures"]) -> Self:
        """Rows of several features below each other."""
        keys = zip(*(p.keys for p in parts), strict=True)
        values = zip(*(p.values for p in parts), strict=True)
        return cls(tuple(map(torch.cat, keys)), tuple(map(torch.cat, values)))

    def check(self, sites: Sequence[Site], what: str) -> None:
        """Raises InputError where the widths are not those of `sites`."""
        mine = [Site(s.name, w, s.depth) for s, w in zip(sites, self.widths, strict=False)]
        if len(self.widths) != len(sites):
            raise InputError(
                f"The features are for {len(self.widths)} sites but {what} has {len(sites)}; load an adapter made for it."
            )
        if (difference := differing_site(sites, mine)) is not None:
            raise InputError(f"The features do not fit {what}: {difference}; load an adapter made for it.")
