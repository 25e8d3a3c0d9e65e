"""Image prompts on their way into a denoiser: each adds a term `scale mask Attention(q, k^, v^)` to eq. 13."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from a4a.errors import InputError
from a4a.features import SiteFeatures


class TokenGrid(NamedTuple):
    """How the rows of the drawn image lie in it, row by row: in most denoisers one frame."""

    frames: int
    height: int
    width: int
    halved: bool = False
    """Whether some sites, in a U-Net, run on grids of half the height and width, of a quarter, and so on."""


class RegionMask:
    """Where in the image a term acts, at the resolution of each site.

    Args:
        mask: [rows, height, width] of weights in [0, 1], of any size; soft edges stay soft.
    """

    def __init__(self, mask: Tensor):
        self._mask = mask
        self._levels: dict[int, Tensor] = {}
        self.finest = 0

    def fit(self, grid: TokenGrid) -> None:
        """Averages the mask over the cells of the grid, and of the coarser ones that a U-Net makes of it."""
        self._levels, (frames, height, width, halved) = {}, grid
        self.finest = frames * height * width
        while frames * height * width not in self._levels:
            level = F.interpolate(self._mask[:, None].float(), (height, width), mode="area")
            level = level.flatten(1).repeat(1, frames).unsqueeze(-1)
            self._levels[level.shape[1]] = level.to(self._mask.dtype)
            if halved:
                height, width = -(-height // 2), -(-width // 2)

    def at(self, count: int, site: str) -> Tensor:
        """The mask [rows, count, 1] of a site of so many image rows; InputError where no level has as many."""
        if count not in self._levels:
            raise InputError(
                f"A mask cannot be applied at {site}, which runs on {count} rows of the image, where the grids of this "
                f"size have {', '.join(map(str, self._levels))}; leave the mask out."
            )
        return self._levels[count]


@dataclass(frozen=True)
class ImageTerm:
    """One image prompt for each row of a batch, at all sites; rows may differ in everything but the token count."""

    features: SiteFeatures
    """k^ and v^, a row for each image that is drawn."""
    scales: Tensor
    """[rows, sites], on the CPU."""
    negative: SiteFeatures | None = None
    """What guidance sees where it sees no prompt."""
    counts: Tensor | None = None
    """[rows, tokens]: how many times each token counts in the softmax, 0 not at all; once by default."""
    negative_counts: Tensor | None = None
    mask: Tensor | None = None
    """[rows, height, width] of weights in [0, 1]; everywhere by default."""

    def __post_init__(self):
        other = self.negative
        if other is not None and (other.batch, other.tokens) != (self.features.batch, self.features.tokens):
            raise InputError(
                f"There are {other.batch} rows of {other.tokens} tokens of negative features for "
                f"{self.features.batch} rows of {self.features.tokens}; give as many of both."
            )


class BatchedTerm:
    """An image term with its rows in the order of the denoiser's batch; its scale may change from step to step.

    Negatives, if given, come last where the family's batches end with them, else first. Perturbed-attention guidance
    runs all other rows twice.

    Attributes:
        works: for each site, whether any row has a scale other than 0 there.
        off: every row is multiplied by 0 at this step.
        region: where in the image the term acts; None for everywhere.
    """

    def __init__(self, term: ImageTerm, negative_last: bool, perturbed: bool):
        self._negative_last, self._perturbed = negative_last, perturbed
        self._guided = term.negative is not None
        positive, negative = term.features, term.negative or term.features
        self._keys = [self._stack(*pair) for pair in zip(positive.keys, negative.keys, strict=True)]
        self._values = [self._stack(*pair) for pair in zip(positive.values, negative.values, strict=True)]
        self._scales = self._for_sites(term.scales)  # of the whole call
        self._scale = self._scales.clone()  # at this step
        self._bias = self._log_counts(term)
        self.works = [bool(numbers.any()) for numbers in term.scales.T]
        self.off = False
        mask = None if term.mask is None else self._stack(term.mask, term.mask).to(self._keys[0])
        self.region = None if mask is None else RegionMask(mask)

    def multiply(self, factors: Sequence[float]) -> None:
        """Multiplies the scale of each row, at all sites, by a number in place of the last one."""
        self.off = not any(factors)
        rows = torch.tensor(factors).unsqueeze(-1).expand(-1, len(self._keys))
        self._scale.copy_(self._scales * self._for_sites(rows))

    def at(self, site: int) -> "SiteTerm":
        return SiteTerm(self, self._keys[site], self._values[site], self._scale[site], self._bias)

    def _stack(self, positive: Tensor, negative: Tensor) -> Tensor:
        rows = [positive, positive] if self._perturbed else [positive]
        if self._guided:
            rows = [*rows, negative] if self._negative_last else [negative, *rows]
        return torch.cat(rows) if len(rows) > 1 else positive

    def _for_sites(self, rows: Tensor) -> Tensor:
        """[rows of prompts, sites] as [sites, rows, 1, 1], beside the features."""
        return self._stack(rows, rows).T[..., None, None].to(self._keys[0], copy=True).contiguous()

    def _log_counts(self, term: ImageTerm) -> Tensor | None:
        """[rows, 1, 1, tokens], to be added to the attention logits."""
        if term.counts is None and term.negative_counts is None:
            return None
        once = torch.ones(term.features.batch, term.features.tokens)
        positive, negative = (once if c is None else c for c in (term.counts, term.negative_counts))
        return self._stack(positive, negative).log()[:, None, None].to(self._keys[0])


class SiteTerm(NamedTuple):
    """An image term at one site; rows as in the denoiser's batch."""

    term: BatchedTerm
    key: Tensor
    """[rows, tokens, width], as `value`."""
    value: Tensor
    scale: Tensor
    """[rows, 1, 1]."""
    bias: Tensor | None
    """[rows, 1, 1, tokens], which is added to the attention logits; None for nothing."""

    batch: slice | None = None
    """Which rows of the batch these are; None: all."""

    def part(self, rows: slice) -> "SiteTerm":
        """The term for some rows of the batch."""
        bias = None if self.bias is None else self.bias[rows]
        return SiteTerm(self.term, self.key[rows], self.value[rows], self.scale[rows], bias, rows)

    def is_off(self) -> bool:
        """Whether the term can be left out at this step. A compiled graph keeps it, times 0, to serve all steps."""
        return self.term.off and not torch.compiler.is_compiling()

    def bias_for(self, query: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(query)

    def masked(self, image: Tensor, drawn: slice | Tensor, site: str) -> Tensor:
        """The term's part of the image [batch, rows, width], where the term acts; `drawn` as of `drawn_rows`."""
        region = self.term.region
        if region is None:
            return image
        mask = region.at(image.shape[1] if isinstance(drawn, slice) else region.finest, site)
        mask = mask if self.batch is None else mask[self.batch]
        return image * (mask if isinstance(drawn, slice) else _scattered(mask, drawn)).to(image)


def _scattered(mask: Tensor, drawn: Tensor) -> Tensor:
    """A mask [batch, image rows, 1] in a sequence, where `drawn` [batch or 1, length, 1] says which rows are these."""
    place = (drawn.long().cumsum(1) - 1).clamp(0, mask.shape[1] - 1)
    return mask.gather(1, place.expand(len(mask), -1, -1))
