"""What the zoo sees and compares with: its VAE, its CLIPs, and the two judges (identity, scene)."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalOperand=false
# (diffusers annotates tuples of any length as tuples of one, and leaves names of configurations out)

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from a4a.training.base import Batch, Objective
from a4a.zoo.convnets import strided
from a4a.zoo.dataset import as_bytes
from a4a.zoo.tokenizers import LENGTH
from a4a.zoo.world import Subjects, Views, caption, describe

# --- CLIP -------------------------------------------------------------------------------------------------------------


def clip_model(
    vocabulary: int, end: int, patch: int, width: int, layers: int, text_width: int, text_layers: int, projection: int
) -> CLIPModel:
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
        self.local = nn.Sequential(*strided(3, widths))
        self.whole = nn.Sequential(
            *strided(widths[-1], (128, 192)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, embed)
        )

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
            picture = (
                pictures[:, None].expand(-1, told.shape[1], -1)[told] * pictures.shape[-1] ** 0.5
            )  # they are of unit length
            words = self.writer(torch.cat([before, picture], dim=-1))
            contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
            return contrast + F.cross_entropy(words, ids[:, 1:][told])

        loss = described(pictures)
        if self.guide is None or self.imitation is None:
            return loss
        cells, whole = self.guide(pixels)
        whole = F.normalize(whole, dim=-1)
        cells = F.layer_norm(cells, cells.shape[-1:]).detach()
        imitated = (
            (self.imitation(seen.last_hidden_state[:, 1:]) - cells).square().mean()
            + 1
            - (pictures * whole.detach()).sum(-1).mean()
        )
        return loss + described(whole) + imitated
