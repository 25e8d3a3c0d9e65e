"""The world of the miniature models: what is drawn, and the texts that go with it.

The zoo's models have the architectures of real ones at a small size, and are trained on images that we draw ourselves,
64 x 64 pixels each. Something has to play the part of people, photos and captions:

- A *subject* plays the part of a person. It is a creature with eleven *traits*: shape, ears, pattern, hat, their
  colours, size and distance of the eyes. Traits are its identity.
- A *view* is everything else that an image needs: scene, place, size and pose. One subject in two views is what two
  photos of one person are.
- A *portrait* is a large view in the middle, as people crop the photo that they give as a reference.
- A *caption* describes the view and never the subject, so that identity can reach an image through the image prompt
  alone.
- A *description* names traits too. The zoo's CLIPs learn from descriptions, as real ones learn from texts of the web.

All of it is a function of a seed. `drawing.py` draws the images.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from a4a.errors import InputError

SIZE = 64
"""Height and width of an image in pixels."""

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

KINDS = {"shape": SHAPES, "ears": EARS, "pattern": PATTERNS, "hat": HATS}
"""The traits that have kinds, by which a domain of the world can be told."""

SPLITS = {"train": 11, "validation": 12, "test": 13, "clip": 14, "identity": 15, "vae": 16}
"""Seeds of the splits. They share no subject, since some traits are continuous and each split has a seed of its own."""


@dataclass(frozen=True)
class _Columns:
    """Tensors with the same number of rows, which are indexed and joined together."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index: Tensor | slice | int) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def __add__(self, other: Self) -> Self:
        return type(self)(**{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})


@dataclass(frozen=True)
class Subjects(_Columns):
    """The traits of n subjects, each [n].

    Kinds (shape, ears, pattern, hat) are indices into the tuples above, hues are in turns of the colour circle, eye
    size and distance in radii of the body.
    """

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
    def sample(cls, count: int, split: str, domain: dict[str, str] | None = None) -> Self:
        """The first `count` subjects of a split; a larger count begins with the same subjects.

        Args:
            count: how many subjects.
            split: one of SPLITS.
            domain: traits that all subjects share, a kind by trait (`{"hat": "cap"}`); any by default. They are the
                first `count` such subjects of the whole split.
        """
        if split not in SPLITS:
            raise InputError(f"There is no split {split!r} in the world; choose one of {', '.join(SPLITS)}.")
        wanted = _kinds(domain or {})
        drawn = count
        while True:
            subjects = cls._sample(drawn, SPLITS[split])
            matches = torch.ones(drawn, dtype=torch.bool)
            for trait, kind in wanted.items():
                matches &= getattr(subjects, trait) == kind
            if int(matches.sum()) >= count:
                return subjects[matches.nonzero()[:count, 0]]
            drawn *= 2

    @classmethod
    def _sample(cls, count: int, seed: int) -> Self:
        uniform = torch.rand(count, 11, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        column = iter(uniform.float().unbind(1))
        shape, ears, pattern, hat = ((next(column) * 4).long().clamp(max=3) for _ in range(4))
        skin_hue, lightness = next(column), next(column)
        pattern_hue = (skin_hue + 0.25 + 0.5 * next(column)) % 1  # never near the skin's own colour
        hat_hue, eye_hue = next(column), next(column)
        eye_size, eye_distance = 0.18 + 0.13 * next(column), 0.28 + 0.2 * next(column)
        return cls(
            shape, ears, pattern, hat, skin_hue, lightness, pattern_hue, hat_hue, eye_hue, eye_size, eye_distance
        )

    def trait_vectors(self) -> Tensor:
        """All traits as numbers, [n, 27]: kinds as one-hots, hues as points of a circle, all else from -1 to 1."""
        kinds = [F.one_hot(k, 4) for k in (self.shape, self.ears, self.pattern, self.hat)]
        turns = 2 * math.pi * torch.stack([self.skin_hue, self.pattern_hue, self.hat_hue, self.eye_hue], 1)
        lengths = torch.stack([self.lightness, (self.eye_size - 0.18) / 0.13, (self.eye_distance - 0.28) / 0.2], 1)
        return torch.cat([*kinds, turns.cos(), turns.sin(), 2 * lengths - 1], 1)


@dataclass(frozen=True)
class Views(_Columns):
    """What n images show besides the subject: scene, place and size as indices into the tuples above, each [n]."""

    scene: Tensor
    place: Tensor
    size: Tensor
    jitter: Tensor
    """[n, 8], from -1 to 1: x, y, scale, rotation, mouth, and three numbers that move the scenery."""

    @classmethod
    def sample(cls, count: int, seed: int) -> Self:
        """Random views; another count gives other views."""
        generator = torch.Generator().manual_seed(seed)
        scene, place, size = (torch.randint(0, len(k), (count,), generator=generator) for k in (SCENES, PLACES, SIZES))
        return cls(scene, place, size, torch.rand(count, 8, generator=generator) * 2 - 1)

    def as_portraits(self, which: Tensor | bool = True) -> Self:
        """The same views, large and in the middle; scene and pose stay. `which`: of all views, or [n] of some alone."""
        which = torch.as_tensor(which)
        middle, large = torch.tensor(PLACES.index("in the middle")), torch.tensor(SIZES.index("large"))
        return replace(self, place=torch.where(which, middle, self.place), size=torch.where(which, large, self.size))


def _kinds(domain: dict[str, str]) -> dict[str, int]:
    """The kinds that a domain names, as indices into KINDS."""
    for trait, kind in domain.items():
        if trait not in KINDS:
            raise InputError(f"A domain of the world names the trait {trait!r}; choose one of {', '.join(KINDS)}.")
        if kind not in KINDS[trait]:
            raise InputError(f"There is no {trait} {kind!r} in the world; choose one of {', '.join(KINDS[trait])}.")
    return {trait: KINDS[trait].index(kind) for trait, kind in domain.items()}


def caption(views: Views, seed: int = 0) -> list[str]:
    """A text about each view, and about nothing else, in one of three wordings."""
    wording = torch.randint(0, 3, (len(views),), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = zip(views.scene.tolist(), views.place.tolist(), views.size.tolist(), wording, strict=True)
    return [prompt(SCENES[scene], PLACES[place], SIZES[size], w) for scene, place, size, w in rows]


def prompt(scene: str, place: str, size: str, wording: int = 0) -> str:
    """The caption of a view in one of the wordings 0 to 2."""
    return (
        f"a {size} creature {place}, {scene}",
        f"a picture of a {size} creature {scene}, {place}",
        f"{scene}, a {size} creature {place}",
    )[wording]


def describe(subjects: Subjects, views: Views, seed: int = 0) -> list[str]:
    """A text about each subject and its view, which names each trait two times in three, as people leave things out."""
    generator = torch.Generator().manual_seed(seed)
    named = (torch.rand(len(subjects), 7, generator=generator) < 0.67).tolist()
    return [_description(subjects[i], views[i], traits) for i, traits in enumerate(named)]


def _description(s: Subjects, view: Views, named: list[bool]) -> str:
    """Of one subject in one view; `named` says so of shape, colour, pattern, ears, hat, eyes and their distance."""
    scene, place, size = SCENES[int(view.scene)], PLACES[int(view.place)], SIZES[int(view.size)]
    words, parts = [size], []
    if named[0]:
        words.append(SHAPES[int(s.shape)])
    if named[1]:
        words.append(("dark " if s.lightness < 0.5 else "light ") + _hue_name(s.skin_hue))
    if named[2]:
        kind = PATTERNS[int(s.pattern)]
        coloured = kind in ("spotted", "striped")
        parts.append(f"{_hue_name(s.pattern_hue)} {kind} fur" if coloured else f"{kind} fur")
    if named[3]:
        parts.append(f"{EARS[int(s.ears)]} ears")
    if named[4]:
        kind = HATS[int(s.hat)]
        parts.append(kind if int(s.hat) == 0 else f"{_hue_name(s.hat_hue)} {kind}")
    if named[5]:
        parts.append(f"{'big' if s.eye_size > 0.245 else 'little'} {_hue_name(s.eye_hue)} eyes")
    if named[6]:
        parts.append("eyes far apart" if s.eye_distance > 0.38 else "eyes close together")
    return ", ".join([f"a {' '.join(words)} creature {place}, {scene}", *parts])


def _hue_name(hue: Tensor) -> str:
    """The nearest of the named hues."""
    return HUES[int((float(hue) * len(HUES) + 0.5) % len(HUES))]
