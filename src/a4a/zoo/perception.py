"""What the zoo sees and compares with: its VAE, its CLIPs, and the two judges (identity, scene)."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalOperand=false
# (diffusers annotates tuples of any length as tuples of one, and leaves names of configurations out)

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from a4a.training.loop import Batch, Objective
from a4a.zoo.language import LENGTH
from a4a.zoo.world import PLACES, SCENES, SIZES, Subjects, Views, caption, describe, draw


class Drawings:
    """Drawings of a split's subjects, `views` to a subject, kept as bytes; with `vae`, half of them as it gives them back."""

    def __init__(self, split: str, subjects: int, views: int = 1, vae: AutoencoderKL | None = None):
        self.subjects = Subjects.sample(subjects, split)
        self.views = [Views.sample(subjects, 1000 * len(split) + v) for v in range(views)]
        self.pictures = torch.stack([as_bytes(self.subjects, v) for v in self.views], 1)
        if vae is not None:
            torch.manual_seed(0)
            half = torch.rand(subjects, views) < 0.5
            self.pictures[half] = through(vae, self.pictures[half])
        self.kinds = torch.stack([torch.stack([v.scene, v.place, v.size], 1) for v in self.views], 1)

    def __len__(self) -> int:
        return len(self.subjects)

    def batch(self, indices: Tensor) -> Batch:
        """`pictures` [n, views, 3, 64, 64] in [0, 1], `kinds` [n, views, 3]: scene, place, size."""
        return {"pictures": self.pictures[indices].float() / 255, "kinds": self.kinds[indices]}


def as_bytes(subjects: Subjects, views: Views) -> Tensor:
    """Drawings in chunks that fit the cache, [n, 3, 64, 64] of bytes."""
    chunks = torch.arange(len(subjects)).split(500)
    return torch.cat([(draw(subjects[c], views[c]) * 255).round().byte() for c in chunks])


@torch.no_grad()
def through(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """What the autoencoder gives back of drawings, bytes [n, 3, 64, 64]."""
    parts = [vae.decode(vae.encode(p.float() / 127.5 - 1).latent_dist.sample()).sample for p in pictures.split(100)]  # pyright: ignore[reportAttributeAccessIssue]
    return ((torch.cat(parts) / 2 + 0.5).clamp(0, 1) * 255).round().byte()


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
    with torch.no_grad():  # the posterior starts narrow: at unit width its noise drowns the picture for hundreds of steps
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


# --- CLIP -------------------------------------------------------------------------------------------------------------


def clip_model(vocabulary: int, end: int, patch: int, width: int, layers: int, text_width: int, text_layers: int, projection: int) -> CLIPModel:
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": patch,
        "projection_dim": projection,
        "hidden_act": "gelu",
    }
    text = {
        "vocab_size": vocabulary,
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "projection_dim": projection,
        "hidden_act": "gelu",
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection))


class Captioned:
    """Drawings (kept as bytes) and their texts: four descriptions of creature and view, and `plain` captions of the view alone.

    With `portraits` every other drawing is one, as references are.

    Where texts never speak of the view alone, scene and traits tell pictures apart and a text tower hardly says where
    things are; a denoiser that listens to it then learns place last.
    """

    def __init__(self, tokenizer, subjects: int, portraits: bool, plain: int):
        self.subjects, self.views = Subjects.sample(subjects, "clip"), Views.sample(subjects, 5)
        if portraits:
            self.views = self.views.as_portraits(torch.arange(subjects) % 2 == 0)
        self.pictures = as_bytes(self.subjects, self.views)
        lines = [describe(self.subjects, self.views, 31 + w) for w in range(4)]
        lines += [caption(self.views, 41 + w) for w in range(plain)]
        encode = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
        tokens = [tokenizer(line, **encode) for line in lines]
        self.ids = torch.stack([t.input_ids for t in tokens], 1)
        self.mask = torch.stack([t.attention_mask for t in tokens], 1)

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Tensor) -> Batch:
        return {"pictures": self.pictures[indices], "ids": self.ids[indices], "mask": self.mask[indices]}


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(pictures: Tensor) -> Tensor:
    """What CLIP's image processor makes of pictures in [0, 1] that have the right size already."""
    mean, std = pictures.new_tensor(CLIP_MEAN), pictures.new_tensor(CLIP_STD)
    return (pictures - mean[:, None, None]) / std[:, None, None]


class _Guide(nn.Module):
    """A convolutional vision tower: pictures to a map of one cell for each patch of 8 pixels, and to an embedding."""

    def __init__(self, embed: int, widths: tuple[int, ...] = (24, 48, 96)):
        super().__init__()
        self.local = nn.Sequential(*_strided(3, widths))
        self.whole = nn.Sequential(*_strided(widths[-1], (128, 192)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, embed))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, 3, 64, 64] to [batch, 64, width] and [batch, embed]."""
        cells = self.local(pixels)
        return cells.flatten(2).transpose(1, 2), self.whole(cells)


class Contrast(Objective):
    """CLIP's own objective, and CoCa's (Yu et al. 2022, eq. 4): each next word of the caption, given the words before and the picture.

    Scenes and colours are enough to tell the pictures of a small batch apart, so contrast alone never looks at ears;
    to predict words, a picture's embedding has to hold every trait that captions speak of. The words before come from
    CLIP's text tower, which is causal; what joins the two is thrown away afterwards.

    With `guided`, a convolutional tower learns the same beside it, and the transformer also imitates what that one sees in
    each patch and in the whole: shapes need edges, which a small vision transformer finds late by itself.
    """

    def __init__(self, clip: CLIPModel, rate: float, guided: bool):
        super().__init__()
        self.clip, self.rate = clip, rate
        config: Any = clip.config
        width, embed, words = config.text_config.hidden_size, config.projection_dim, config.text_config.vocab_size
        self.writer = nn.Sequential(nn.Linear(width + embed, 256), nn.GELU(), nn.Linear(256, words))
        self.guide = _Guide(embed) if guided else None
        self.imitation = nn.Linear(config.vision_config.hidden_size, 96) if guided else None

    def parameter_groups(self):
        return [{"name": "clip", "params": list(self.parameters()), "lr": self.rate}]

    def forward(self, batch: Batch) -> Tensor:
        wording = int(torch.randint(batch["ids"].shape[1], ()))
        ids, mask = batch["ids"][:, wording], batch["mask"][:, wording].bool()
        pixels = clip_pixels(batch["pictures"].float() / 255)
        seen: Any = self.clip.vision_model(pixel_values=pixels)
        read: Any = self.clip.text_model(input_ids=ids)
        pictures = F.normalize(self.clip.visual_projection(seen.pooler_output), dim=-1)
        texts = F.normalize(self.clip.text_projection(read.pooler_output), dim=-1)

        def described(pictures: Tensor) -> Tensor:
            logits = self.clip.logit_scale.exp() * pictures @ texts.T
            target, told = torch.arange(len(ids), device=ids.device), mask[:, 1:]
            before = read.last_hidden_state[:, :-1][told]
            picture = pictures[:, None].expand(-1, told.shape[1], -1)[told] * pictures.shape[-1] ** 0.5  # they are of unit length
            words = self.writer(torch.cat([before, picture], dim=-1))
            contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
            return contrast + F.cross_entropy(words, ids[:, 1:][told])

        loss = described(pictures)
        if self.guide is None or self.imitation is None:
            return loss
        cells, whole = self.guide(pixels)
        whole = F.normalize(whole, dim=-1)
        cells = F.layer_norm(cells, cells.shape[-1:]).detach()
        imitated = (self.imitation(seen.last_hidden_state[:, 1:]) - cells).square().mean() + 1 - (pictures * whole.detach()).sum(-1).mean()
        return loss + described(whole) + imitated


# --- the judges -------------------------------------------------------------------------------------------------------


def _strided(before: int, widths: tuple[int, ...]) -> list[nn.Module]:
    """Convolutions without residuals; each width halves the sides."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        before = width
    return layers


class _ConvNet(nn.Sequential):
    """64 x 64 pixels to one vector."""

    def __init__(self, widths: tuple[int, ...], out: int):
        super().__init__(*_strided(3, widths), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], out))


class IdentityEncoder(ModelMixin, ConfigMixin):
    """The zoo's ArcFace: pictures [batch, 3, 64, 64] in [0, 1] to unit vectors [batch, embed], alike for one subject."""

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128), embed: int = 64):
        super().__init__()
        self.net = _ConvNet(tuple(widths), embed)

    def forward(self, pictures: Tensor) -> Tensor:
        return F.normalize(self.net(pictures * 2 - 1), dim=-1)


class SceneClassifier(ModelMixin, ConfigMixin):
    """Pictures [batch, 3, 64, 64] in [0, 1] to logits for scene, place and size."""

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 64)):
        super().__init__()
        self.net = _ConvNet(tuple(widths), len(SCENES) + len(PLACES) + len(SIZES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        return self.net(pictures * 2 - 1).split([len(SCENES), len(PLACES), len(SIZES)], dim=-1)


def _weathered(pictures: Tensor) -> Tensor:
    """Blur, noise and a change of contrast, each to a random degree: judges must not mind a VAE."""
    n = len(pictures)
    degree = torch.rand(n, 4, 1, 1, 1, device=pictures.device)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pictures = torch.lerp(pictures, blurred, degree[:, 0])
    pictures = (pictures - 0.5) * (0.85 + 0.3 * degree[:, 1]) + 0.5 + 0.1 * (degree[:, 2] - 0.5)
    return pictures + 0.08 * degree[:, 3] * torch.randn_like(pictures)


class Recognition(Objective):
    """Two drawings of one subject are alike, those of others in the batch are not (normalised temperature cross-entropy)."""

    def __init__(self, encoder: IdentityEncoder, rate: float, temperature: float = 0.1):
        super().__init__()
        self.encoder, self.rate, self.temperature = encoder, rate, temperature

    def parameter_groups(self):
        return [{"name": "identity", "params": list(self.parameters()), "lr": self.rate}]

    def forward(self, batch: Batch) -> Tensor:
        pictures = batch["pictures"]
        vectors = self.encoder(_weathered(pictures.flatten(0, 1))).unflatten(0, pictures.shape[:2])
        logits = vectors[:, 0] @ vectors[:, 1].T / self.temperature
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Classification(Objective):
    def __init__(self, classifier: SceneClassifier, rate: float):
        super().__init__()
        self.classifier, self.rate = classifier, rate

    def parameter_groups(self):
        return [{"name": "classifier", "params": list(self.parameters()), "lr": self.rate}]

    def forward(self, batch: Batch) -> Tensor:
        logits = self.classifier(_weathered(batch["pictures"][:, 0]))
        losses = [F.cross_entropy(part, batch["kinds"][:, 0, i]) for i, part in enumerate(logits)]
        return torch.stack(losses).sum()
