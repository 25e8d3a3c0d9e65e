"""The world's drawings as training data: for adapters and denoisers, for the VAE and the scorers, for CLIP."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from a4a.data.base import TrainingImages
from a4a.training.base import Batch
from a4a.zoo.drawing import draw
from a4a.zoo.tokenizers import CLIP_TOKENS
from a4a.zoo.world import Subjects, Views, caption, describe

VERSION = 2
"""Part of the key of cached encodings; raise it when drawings change."""
DRAW_BATCH = 500
"""Drawings made at a time: as many as fit the processor's cache."""


class WorldImages(TrainingImages):
    """For adapters and denoisers: a portrait and `views` other drawings of each of the first `subjects` of a split.

    The portrait is the reference, each of the other drawings a target, so that copying the reference does not help.

    Args:
        split: train, validation or test.
        subjects: how many subjects.
        views: targets of each subject.
        domain: traits that all subjects share, a kind by trait (`{shape: tall}`); any by default.
    """

    def __init__(self, split: str, subjects: int, views: int = 2, domain: dict[str, str] | None = None):
        self.key = f"world {VERSION} {split} {subjects} x {views}" + (f" {sorted(domain.items())}" if domain else "")
        targets = Views.sample(subjects * views, 100 + len(split))
        portraits = Views.sample(subjects, 200 + len(split)).as_portraits()
        subject_of_target = torch.arange(subjects).repeat_interleave(views)
        self.subjects = Subjects.sample(subjects, split, domain)[torch.cat([subject_of_target, torch.arange(subjects)])]
        self.views = targets + portraits
        self.captions = caption(self.views, 5)
        self.pairs = torch.stack([len(targets) + subject_of_target, torch.arange(len(targets))], 1)

    def __len__(self) -> int:
        return len(self.subjects)

    def pixels(self, indices: Tensor) -> Tensor:
        return draw(self.subjects[indices], self.views[indices])


class Drawings:
    """For the VAE and the scorers: `views` drawings of each of the first subjects of a split, kept as bytes.

    With a `vae`, a random half of them is replaced by the VAE's reconstructions.
    """

    def __init__(self, split: str, subjects: int, views: int = 1, vae: AutoencoderKL | None = None):
        self.subjects = Subjects.sample(subjects, split)
        self.views = [Views.sample(subjects, 1000 * len(split) + v) for v in range(views)]
        self.images = torch.stack([draw_bytes(self.subjects, v) for v in self.views], 1)
        if vae is not None:
            torch.manual_seed(0)
            half = torch.rand(subjects, views) < 0.5
            self.images[half] = _reconstruct(vae, self.images[half])
        self.labels = torch.stack([torch.stack([v.scene, v.place, v.size], 1) for v in self.views], 1)

    def __len__(self) -> int:
        return len(self.subjects)

    def batch(self, indices: Tensor) -> Batch:
        """`images` [batch, views, 3, 64, 64] in [0, 1], `labels` [batch, views, 3]: scene, place and size."""
        return {"images": self.images[indices].float() / 255, "labels": self.labels[indices]}


class CaptionedDrawings:
    """For CLIP: drawings, kept as bytes, and several texts of each.

    Each drawing has four descriptions of subject and view, and `plain_captions` captions of the view alone. Without the
    latter, scene and traits tell the drawings apart, so that the text tower hardly learns where things are; a denoiser
    that is conditioned on it then learns the place last.

    Args:
        tokenizer: CLIP's.
        subjects: how many, of the split `clip`, each drawn once.
        portraits: draw every other subject as a portrait, as references are.
        plain_captions: captions of the view alone for each drawing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, subjects: int, portraits: bool, plain_captions: int):
        self.subjects, self.views = Subjects.sample(subjects, "clip"), Views.sample(subjects, 5)
        if portraits:
            self.views = self.views.as_portraits(torch.arange(subjects) % 2 == 0)
        self.images = draw_bytes(self.subjects, self.views)
        texts = [describe(self.subjects, self.views, 31 + w) for w in range(4)]
        texts += [caption(self.views, 41 + w) for w in range(plain_captions)]
        encoded = [clip_tokens(tokenizer, lines) for lines in texts]
        self.ids = torch.stack([ids for ids, _ in encoded], 1)
        self.mask = torch.stack([mask for _, mask in encoded], 1)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> Batch:
        """`images` [batch, 3, 64, 64] as bytes, `ids` and `mask` [batch, texts, tokens]."""
        return {"images": self.images[indices], "ids": self.ids[indices], "mask": self.mask[indices]}


def clip_tokens(tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, [lines, tokens], padded and cut to the length of CLIP's text towers."""
    encoded = tokenizer(lines, padding="max_length", truncation=True, max_length=CLIP_TOKENS, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]


def draw_bytes(subjects: Subjects, views: Views) -> Tensor:
    """Drawings as bytes, [n, 3, 64, 64]."""
    chunks = torch.arange(len(subjects)).split(DRAW_BATCH)
    return torch.cat([(draw(subjects[c], views[c]) * 255).round().byte() for c in chunks])


@torch.no_grad()
def _reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode and decode images, bytes [n, 3, 64, 64]."""
    decoded = [vae(part.float() / 127.5 - 1, sample_posterior=True).sample for part in images.split(100)]
    return ((torch.cat(decoded) / 2 + 0.5).clamp(0, 1) * 255).round().byte()
