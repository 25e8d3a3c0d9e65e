"""Between pixels and latents: the VAEs of diffusers behind one pair of functions.

VAEs differ in a few facts: whether they draw from a posterior, whether they take video, whether their latents are
normalised by one number, one for each channel or a batch norm over patches, and whether these are shifted.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, as_tensor

from a4a.image_terms import TokenGrid

PATCH = 2
"""Latents along each side of a patch, where a VAE normalises patches."""


def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Images [batch, 3, height, width] in [-1, 1] to latents [batch, channels, height, width], not yet normalised.

    Those of a VAE with a batch norm come in patches of two by two, and without noise, as its authors encode.
    """
    pixels = pixels.to(vae.device, vae.dtype)
    encoded = vae.encode(pixels.unsqueeze(2) if takes_video(vae) else pixels)
    if has_batch_norm(vae):
        return F.pixel_unshuffle(encoded.latent_dist.mode(), PATCH)
    latents = encoded.latent_dist.sample() if hasattr(encoded, "latent_dist") else encoded.latent
    return latents.squeeze(2) if takes_video(vae) else latents


def decode(vae: Any, latents: Tensor) -> Tensor:
    """The inverse of `encode`: images [batch, 3, height, width]."""
    latents = latents.to(vae.device, vae.dtype)
    if has_batch_norm(vae):
        latents = F.pixel_shuffle(latents, PATCH)
    if takes_video(vae):
        return vae.decode(latents.unsqueeze(2)).sample.squeeze(2)
    return vae.decode(latents).sample


def normalisation(vae: Any, like: Tensor) -> tuple[Any, Any]:
    """`shift` and `scale` of the VAE: the denoiser takes (latents - shift) * scale.

    Numbers, or tensors [1, channels, 1, 1] on the device and in the dtype of `like`.
    """
    config = vae.config
    if has_batch_norm(vae):
        mean, variance = (t.to(like).view(1, -1, 1, 1) for t in (vae.bn.running_mean, vae.bn.running_var))
        return mean, (variance + config.batch_norm_eps).rsqrt()
    mean, std, shift = config.get("latents_mean"), config.get("latents_std"), config.get("shift_factor")
    scale = config.get("scaling_factor", 1.0)
    if mean is None or std is None:
        return shift or 0.0, scale
    mean, std = (as_tensor(values).to(like).view(1, -1, 1, 1) for values in (mean, std))
    return mean, scale / std


def has_batch_norm(vae: Any) -> bool:
    """Whether its latents are normalised in patches, by the running mean and variance of a batch norm: FLUX.2's."""
    return "batch_norm_eps" in vae.config


def takes_video(vae: Any) -> bool:
    """Whether its tensors are [batch, channels, frames, height, width]; an image is a video of one frame."""
    return "temperal_downsample" in vae.config  # as diffusers spells it


def pack(latents: Tensor, patch_size: int) -> Tensor:
    """Latents [batch, channels, height, width] as one row a patch: [batch, rows, channels * patch_size^2]."""
    return F.pixel_unshuffle(latents, patch_size).flatten(2).transpose(1, 2)


def unpack(rows: Tensor, size: Sequence[int], patch_size: int) -> Tensor:
    """The inverse of `pack`, for latents of that height and width."""
    height, width = (side // patch_size for side in size)
    return F.pixel_shuffle(rows.transpose(1, 2).unflatten(2, (height, width)), patch_size)


def grid_of_positions(positions: Tensor) -> TokenGrid:
    """The drawn image's grid by the positions [..., rows, axes] of packed latents: (0, row, column, ...) in that image.

    Other images have another number first.
    """
    positions = positions.flatten(0, -2)
    bottom, right = positions[positions[:, 0] == 0, 1:3].amax(0).tolist()
    return TokenGrid(1, int(bottom) + 1, int(right) + 1)
