"""Upgraded Space Mapping (sec. 3.3, eq. 9, 10): learned features of all upgraded sites attend to all base sites'."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from a4a.errors import InputError

Connectivity = Literal["all_to_all", "layer_by_layer"]
"""What an upgraded site sees: all base sites (the paper), or the one nearest in depth (the paper's counter-example)."""

MAX_ROUNDS = 100
"""The paper has 2; a damaged configuration must not build millions of layers."""


class UpgradedSpaceMapping(nn.Module):
    """`K^`, learned, refined R times by attention over `[K^, K]`, where K comes from the coupling space.

    Args:
        base_depths, upgraded_depths: positions of the sites in the order of execution, each in [0, 1].
        tokens: N, image tokens of a site.
        width: d_scm.
        rounds: R.
        inner: d_im, the width of the attention.
        heads: of the attention.
        residual: around attention and FFN; eq. 9 shows none.
        warm_start: K^ starts as a learnable mixture, over the base sites, of K: at first each upgraded site takes the
            base sites nearest in depth. Random latents alone drown the reference in what all references share. The
            rounds then start as the identity.
        connectivity: "layer_by_layer" limits every upgraded site to the base site nearest in depth, and to itself.
    """

    seen: Tensor | None
    mask: Tensor | None

    def __init__(
        self,
        base_depths: Sequence[float],
        upgraded_depths: Sequence[float],
        tokens: int,
        width: int,
        rounds: int,
        inner: int,
        heads: int,
        residual: bool,
        warm_start: bool,
        connectivity: Connectivity = "all_to_all",
    ):
        super().__init__()
        if not 0 <= rounds <= MAX_ROUNDS:
            raise InputError(f"The mapping has {rounds} rounds; give a number from 0 to {MAX_ROUNDS}.")
        if connectivity == "all_to_all":
            start, seen, mask = interpolation(base_depths, upgraded_depths), None, None
        else:
            start = seen = nearest(base_depths, upgraded_depths)
            sites = torch.cat([torch.eye(len(start)), start], dim=1).bool()  # a row of [K^, K] for each upgraded site
            mask = sites.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
        self.register_buffer("seen", seen, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.latents = nn.Parameter(torch.randn(len(upgraded_depths), tokens, width) * (0.02 if warm_start else 1.0))
        self.mixture = nn.Parameter(start.clone()) if warm_start else None
        self.norm = nn.LayerNorm(width) if warm_start else None
        self.rounds = nn.ModuleList(
            _Round(width, inner, heads, residual, identity=warm_start and residual) for _ in range(rounds)
        )

    def forward(
        self, coupling: Float[Tensor, "batch base tokens width"]
    ) -> Float[Tensor, "batch upgraded tokens width"]:
        mapped = self.latents.expand(len(coupling), -1, -1, -1)
        if self.mixture is not None and self.norm is not None:
            mixture = self.mixture if self.seen is None else self.mixture * self.seen
            mapped = mapped + torch.einsum("ul,blnd->bund", mixture, self.norm(coupling))
        tokens, reference = mapped.flatten(1, 2), coupling.flatten(1, 2)
        for refine in self.rounds:
            tokens = refine(tokens, reference, self.mask)
        return tokens.unflatten(1, mapped.shape[1:3])


class _Round(nn.Module):
    """Eq. 9: `FFN( W_out Attention( LN(K^) W_1, [LN(K^), LN(K)] W_2, [LN(K^), LN(K)] W_3 ) )`."""

    def __init__(self, width: int, inner: int, heads: int, residual: bool, identity: bool):
        super().__init__()
        if type(heads) is not int or heads < 1 or inner % heads:
            raise InputError(
                f"The mapping has {heads} heads but its attention is {inner} wide (inner, or else d_scm); "
                f"give a number of heads that divides that."
            )
        self.heads, self.residual = heads, residual
        self.norm_mapped, self.norm_reference = nn.LayerNorm(width), nn.LayerNorm(width)
        self.w_1, self.w_2, self.w_3 = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.w_out = nn.Linear(inner, width, bias=False)
        self.ffn = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        if identity:
            for last in (self.w_out, self.ffn[-1]):
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)

    def forward(
        self,
        mapped: Float[Tensor, "batch queries width"],
        reference: Float[Tensor, "batch keys width"],
        mask: Tensor | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        normed = self.norm_mapped(mapped)
        context = torch.cat([normed, self.norm_reference(reference)], dim=1)
        attended = self.w_out(self._attention(self.w_1(normed), self.w_2(context), self.w_3(context), mask))
        if not self.residual:
            return self.ffn(attended)
        mapped = mapped + attended
        return mapped + self.ffn(mapped)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)


def interpolation(base_depths: Sequence[float], upgraded_depths: Sequence[float]) -> Float[Tensor, "upgraded base"]:
    """Weights of linear interpolation: each upgraded site takes the base sites just before and after it in depth."""
    order = sorted(range(len(base_depths)), key=lambda i: base_depths[i])
    depths = [base_depths[i] for i in order]
    weights = torch.zeros(len(upgraded_depths), len(base_depths))
    for row, depth in enumerate(upgraded_depths):
        after = next((j for j, d in enumerate(depths) if d >= depth), len(depths) - 1)
        before = after if depths[after] <= depth else max(after - 1, 0)
        gap = depths[after] - depths[before]
        share = (depth - depths[before]) / gap if gap else 1.0
        weights[row, order[before]] += 1 - share
        weights[row, order[after]] += share
    return weights


def nearest(base_depths: Sequence[float], upgraded_depths: Sequence[float]) -> Float[Tensor, "upgraded base"]:
    """One-hot rows: the base site nearest in depth."""
    distance = (torch.tensor(upgraded_depths)[:, None] - torch.tensor(base_depths)).abs()
    return F.one_hot(distance.argmin(1), len(base_depths)).float()
