"""The world of the miniature models: creatures with traits, in scenes, drawn at 64 x 64 pixels.

A *subject* is a creature with fixed traits (its identity). A *view* is everything else that a picture needs: scene,
place, size, pose. One subject in two views is what two photos of one person are. `caption` describes the view and never
the subject, so that identity can reach a picture through the image prompt alone; `describe` names traits as well and is
what the zoo's CLIP learns from.

Everything is drawn by signed distances, a whole batch at once, and depends on nothing but the seed.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from a4a.errors import InputError

SIZE = 64

SCENES = (
    "on a beach",
    "in the snow",
    "in a forest",
    "in a desert",
    "in a city at night",
    "under the sea",
    "on a meadow",
    "in a room",
)
PLACES = ("on the left", "in the middle", "on the right")
SIZES = ("small", "large")

SHAPES = ("round", "tall", "wide", "square")
EARS = ("no", "round", "pointed", "long")
PATTERNS = ("plain", "spotted", "striped", "white-bellied")
HATS = ("no hat", "top hat", "cone hat", "cap")
HUES = ("red", "orange", "yellow", "lime", "green", "teal", "cyan", "azure", "blue", "violet", "magenta", "pink")

# Disjoint by construction: traits are continuous and every split is drawn from a seed of its own.
SPLITS = {"train": 11, "validation": 12, "test": 13, "clip": 14, "identity": 15, "vae": 16}


class _Table:
    """Rows of tensors that are indexed, repeated and joined together."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})  # pyright: ignore[reportArgumentType]

    def __add__(self, other: Self) -> Self:
        return type(self)(**{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Subjects(_Table):
    """Traits of n creatures. Hues are in turns, lengths in body radii, kinds are indices into the tuples above."""

    shape: Tensor
    ears: Tensor
    pattern: Tensor
    hat: Tensor
    skin_hue: Tensor
    lightness: Tensor
    pattern_hue: Tensor
    hat_hue: Tensor
    eye_hue: Tensor
    eye_size: Tensor
    eye_distance: Tensor

    @classmethod
    def sample(cls, count: int, split: str) -> Self:
        """The first `count` subjects of a split; a larger count begins with the same subjects."""
        if split not in SPLITS:
            raise InputError(f"There is no split {split!r} in the world; choose one of {', '.join(SPLITS)}.")
        uniform = torch.rand(count, 11, generator=torch.Generator().manual_seed(SPLITS[split]), dtype=torch.float64)
        column = iter(uniform.float().unbind(1))
        shape, ears, pattern, hat = ((next(column) * 4).long().clamp(max=3) for _ in range(4))
        skin_hue, lightness = next(column), next(column)
        pattern_hue = (skin_hue + 0.25 + 0.5 * next(column)) % 1  # never the skin's own colour
        hat_hue, eye_hue = next(column), next(column)
        eye_size, eye_distance = 0.18 + 0.13 * next(column), 0.28 + 0.2 * next(column)
        return cls(
            shape, ears, pattern, hat, skin_hue, lightness, pattern_hue, hat_hue, eye_hue, eye_size, eye_distance
        )

    def numbers(self) -> Tensor:
        """All traits, [n, 27]: kinds as one-hots, hues as points of a circle, lengths from -1 to 1."""
        kinds = [F.one_hot(k, 4) for k in (self.shape, self.ears, self.pattern, self.hat)]
        turns = 2 * math.pi * torch.stack([self.skin_hue, self.pattern_hue, self.hat_hue, self.eye_hue], 1)
        lengths = torch.stack([self.lightness, (self.eye_size - 0.18) / 0.13, (self.eye_distance - 0.28) / 0.2], 1)
        return torch.cat([*kinds, turns.cos(), turns.sin(), 2 * lengths - 1], 1)


@dataclass(frozen=True)
class Views(_Table):
    """What a picture shows besides the subject. Kinds are indices; the rest is jitter in [-1, 1]."""

    scene: Tensor
    place: Tensor
    size: Tensor
    jitter: Tensor
    """[n, 8]: x, y, scale, rotation, mouth, and three numbers that move the scenery."""

    @classmethod
    def sample(cls, count: int, seed: int) -> Self:
        generator = torch.Generator().manual_seed(seed)
        scene, place, size = (torch.randint(0, len(k), (count,), generator=generator) for k in (SCENES, PLACES, SIZES))
        return cls(scene, place, size, torch.rand(count, 8, generator=generator) * 2 - 1)

    def as_portraits(self, which: Tensor | bool = True) -> Self:
        """Large and in the middle, as people crop the photo that they give as a reference; scene and pose stay."""
        which = torch.as_tensor(which)
        middle, large = torch.tensor(PLACES.index("in the middle")), torch.tensor(SIZES.index("large"))
        return replace(self, place=torch.where(which, middle, self.place), size=torch.where(which, large, self.size))


def caption(views: Views, seed: int = 0) -> list[str]:
    """English for the view alone, in one of three wordings."""
    wording = torch.randint(0, 3, (len(views),), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = zip(views.scene.tolist(), views.place.tolist(), views.size.tolist(), wording, strict=True)
    return [prompt(SCENES[scene], PLACES[place], SIZES[size], w) for scene, place, size, w in rows]


def prompt(scene: str, place: str, size: str, wording: int = 0) -> str:
    return (
        f"a {size} creature {place}, {scene}",
        f"a picture of a {size} creature {scene}, {place}",
        f"{scene}, a {size} creature {place}",
    )[wording]


def describe(subjects: Subjects, views: Views, seed: int = 0) -> list[str]:
    """English for subject and view; like people, it leaves things out: each trait is named two times in three."""
    generator = torch.Generator().manual_seed(seed)
    named = (torch.rand(len(subjects), 7, generator=generator) < 0.67).tolist()
    lines = []
    for i, says in enumerate(named):
        s = subjects[i]
        where = (SCENES[int(views.scene[i])], PLACES[int(views.place[i])], SIZES[int(views.size[i])])
        words = [where[2]]
        words += [SHAPES[int(s.shape)]] if says[0] else []
        words += [("dark " if s.lightness < 0.5 else "light ") + _hue_name(s.skin_hue)] if says[1] else []
        parts = []
        if says[2]:
            kind = PATTERNS[int(s.pattern)]
            coloured = kind in ("spotted", "striped")
            parts.append(f"{_hue_name(s.pattern_hue)} {kind} fur" if coloured else f"{kind} fur")
        if says[3]:
            parts.append(f"{EARS[int(s.ears)]} ears")
        if says[4]:
            kind = HATS[int(s.hat)]
            parts.append(kind if int(s.hat) == 0 else f"{_hue_name(s.hat_hue)} {kind}")
        if says[5]:
            size = "big" if s.eye_size > 0.245 else "little"
            parts.append(f"{size} {_hue_name(s.eye_hue)} eyes")
        if says[6]:
            parts.append("eyes far apart" if s.eye_distance > 0.38 else "eyes close together")
        lines.append(f"a {' '.join(words)} creature {where[1]}, {where[0]}" + "".join(f", {p}" for p in parts))
    return lines


def _hue_name(hue: Tensor) -> str:
    return HUES[int((float(hue) * len(HUES) + 0.5) % len(HUES))]
