"""The autoencoder of the zoo and its training objective."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from a4a.training.base import Batch, Objective

# --- the VAE ----------------------------------------------------------------------------------------------------------


def vae_model(widths: tuple[int, ...]) -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=1,  # at full resolution there are 8 channels: more groups would normalise their colours away
        mid_block_add_attention=False,
        sample_size=64,
    )
    with (
        torch.no_grad()
    ):  # the posterior starts narrow: at unit width its noise drowns the picture for hundreds of steps
        vae.quant_conv.weight[8:].zero_()  # pyright: ignore[reportOptionalMemberAccess]
        vae.quant_conv.bias[8:].fill_(-5.0)  # pyright: ignore[reportOptionalMemberAccess, reportOptionalSubscript]
    return vae


class Reconstruction(Objective):
    """Squares (colours first), L1, and L1 on differences (edges: eyes and mouths); a slight pull of the latents to unit variance."""

    def __init__(self, vae: AutoencoderKL, rate: float, edges: float, prior: float):
        super().__init__()
        self.vae, self.rate, self.edges, self.prior = vae, rate, edges, prior

    def parameter_groups(self):
        return [{"name": "vae", "params": list(self.parameters()), "lr": self.rate}]

    def forward(self, batch: Batch) -> Tensor:
        pictures = _recoloured(batch["pictures"][:, 0] * 2 - 1).contiguous(memory_format=torch.channels_last)
        posterior = self.vae.encode(pictures).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        painted = self.vae.decode(posterior.sample()).sample  # pyright: ignore[reportAttributeAccessIssue]
        loss = 2 * F.mse_loss(painted, pictures) + 0.7 * F.l1_loss(painted, pictures)
        for dim in (-1, -2):
            loss = loss + self.edges * F.l1_loss(painted.diff(dim=dim), pictures.diff(dim=dim))
        return loss + self.prior * posterior.kl().mean() / posterior.mean[0].numel()


def _recoloured(pictures: Tensor) -> Tensor:
    """One picture in three with its channels shuffled and inverted at random.

    Scenes have few palettes: without this the autoencoder learns those by heart and leaves the creatures grey.
    """
    count = len(pictures)
    order = torch.rand(count, 3, device=pictures.device).argsort(1)
    sign = (torch.rand(count, 3, 1, 1, device=pictures.device) < 0.5).float() * 2 - 1
    changed = pictures.gather(1, order[:, :, None, None].expand_as(pictures)) * sign
    return torch.where(torch.rand(count, 1, 1, 1, device=pictures.device) < 1 / 3, changed, pictures)
