"""The zoo's VAE, which all of its denoisers share: 64 x 64 pixels to 8 x 8 latents of 8 channels."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from a4a.training.base import Batch, Objective
from a4a.zoo.context import BuildContext, write_card
from a4a.zoo.dataset import Drawings

LATENT_CHANNELS = 8


def vae_model(widths: list[int]) -> AutoencoderKL:
    """An untrained VAE; each width after the first halves the sides."""
    options: dict[str, Any] = {
        "block_out_channels": tuple(widths),
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": 1,
        "latent_channels": LATENT_CHANNELS,
        # at full resolution there are 8 channels: with more groups, normalisation would remove their colours
        "norm_num_groups": 1,
        "mid_block_add_attention": False,
        "sample_size": 64,
    }
    vae = AutoencoderKL(**options)
    _start_with_narrow_posterior(vae)
    return vae


@torch.no_grad()
def _start_with_narrow_posterior(vae: Any) -> None:
    """Posteriors of unit width would drown the image in noise for the first hundreds of steps."""
    vae.quant_conv.weight[LATENT_CHANNELS:].zero_()
    vae.quant_conv.bias[LATENT_CHANNELS:].fill_(-5.0)


def encode(vae: AutoencoderKL, images: Tensor) -> DiagonalGaussianDistribution:
    """The posterior of images [batch, 3, height, width] in [-1, 1]."""
    output: Any = vae.encode(images)
    return output.latent_dist


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images in about [-1, 1]."""
    module: Any = vae  # whose annotation wants torch.FloatTensor
    return module.decode(latents).sample


class Reconstruction(Objective):
    """Reconstruction loss and KL divergence of the VAE.

    Squared errors get the colours right first, absolute errors the rest, and absolute errors of the differences
    between neighbouring pixels the edges, that is eyes and mouths. The KL divergence pulls the latents slightly to unit
    variance.
    """

    def __init__(self, vae: AutoencoderKL, learning_rate: float, edge_weight: float, kl_weight: float):
        super().__init__()
        self.vae, self.learning_rate = vae, learning_rate
        self.edge_weight, self.kl_weight = edge_weight, kl_weight

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "vae", "params": list(self.parameters()), "lr": self.learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        images = _recolour(batch["images"][:, 0] * 2 - 1).contiguous(memory_format=torch.channels_last)
        posterior = encode(self.vae, images)
        decoded = decode(self.vae, posterior.sample())
        loss = 2 * F.mse_loss(decoded, images) + 0.7 * F.l1_loss(decoded, images)
        for dim in (-1, -2):
            loss = loss + self.edge_weight * F.l1_loss(decoded.diff(dim=dim), images.diff(dim=dim))
        return loss + self.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()


def _recolour(images: Tensor) -> Tensor:
    """Shuffle and invert the colour channels of one image in three at random.

    Scenes have few palettes: without this the autoencoder learns those by heart and leaves the creatures grey.
    """
    count = len(images)
    order = torch.rand(count, 3, device=images.device).argsort(1)
    sign = (torch.rand(count, 3, 1, 1, device=images.device) < 0.5).float() * 2 - 1
    recoloured = images.gather(1, order[:, :, None, None].expand_as(images)) * sign
    return torch.where(torch.rand(count, 1, 1, 1, device=images.device) < 1 / 3, recoloured, images)


def build_vae(
    context: BuildContext,
    name: str,
    target: Path,
    training: dict[str, Any],
    subjects: int,
    widths: list[int],
    learning_rate: float,
    edge_weight: float,
    kl_weight: float,
) -> None:
    """Stage: train the VAE; its figure is the PSNR of held-out drawings."""
    model: Any = vae_model(widths)
    model.to(memory_format=torch.channels_last)
    drawings = Drawings("vae", subjects)
    context.train(name, Reconstruction(model, learning_rate, edge_weight, kl_weight), drawings, training)
    model.to(memory_format=torch.contiguous_format).eval()
    held_out = Drawings("validation", 500).batch(torch.arange(500))["images"][:, 0]
    with torch.no_grad():
        latents = torch.cat([encode(model, part * 2 - 1).sample() for part in held_out.split(100)])
        decoded = torch.cat([decode(model, part) for part in latents.split(100)])
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    error = ((decoded / 2 + 0.5).clamp(0, 1) - held_out).square().mean((1, 2, 3))
    model.half().save_pretrained(target)
    write_card(target, {"psnr_held_out": float((-10 * error.log10()).mean()), "images": len(held_out)})
