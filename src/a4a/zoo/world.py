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
        return cls(shape, ears, pattern, hat, skin_hue, lightness, pattern_hue, hat_hue, eye_hue, eye_size, eye_distance)

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


def draw(subjects: Subjects, views: Views) -> Tensor:
    """Pictures [n, 3, 64, 64] in [0, 1]."""
    axis = torch.arange(SIZE, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    picture = _scenery(views, x[None], y[None])
    return _creature(picture, subjects, views, x[None], y[None]).clamp(0, 1)


# --- colours, shapes --------------------------------------------------------------------------------------------------


def _hsv(hue: Tensor, saturation: float | Tensor, value: float | Tensor) -> Tensor:
    """[n, 3] from hues in turns [n]."""
    ramp = (hue[:, None] * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
    level = torch.minimum(ramp, 4 - ramp).clamp(0, 1)
    saturation, value = (torch.as_tensor(v).reshape(-1, 1) for v in (saturation, value))
    return value * (1 - saturation * level)


def _rgb(*triple: float) -> Tensor:
    return torch.tensor([triple])


def _paint(picture: Tensor, distance: Tensor, colour: Tensor, where: Tensor | None = None) -> Tensor:
    """Covers what lies inside (distance in pixels [n, h, w], negative inside) with a colour [n or 1, 3]."""
    alpha = (0.5 - distance).clamp(0, 1)
    if where is not None:
        alpha = alpha * where[:, None, None]
    alpha = alpha[:, None]
    return picture * (1 - alpha) + colour[:, :, None, None] * alpha


def _ellipse(u: Tensor, v: Tensor, a: float | Tensor, b: float | Tensor) -> Tensor:
    """Distance to an axis-aligned ellipse, exact to first order, in the units of u, v."""
    k = torch.sqrt((u / a) ** 2 + (v / b) ** 2) + 1e-6
    grad = torch.sqrt((u / a**2) ** 2 + (v / b**2) ** 2) + 1e-6
    return k * (k - 1) / grad


def _box(u: Tensor, v: Tensor, a: float | Tensor, b: float | Tensor, corner: float = 0.0) -> Tensor:
    p, q = u.abs() - a + corner, v.abs() - b + corner
    return torch.sqrt(p.clamp(min=0) ** 2 + q.clamp(min=0) ** 2) + torch.maximum(p, q).clamp(max=0) - corner


def _triangle(u: Tensor, v: Tensor, half: float, height: float) -> Tensor:
    """Point up, base from -half to half on v = 0, tip at v = -height."""
    length = math.hypot(half, height)
    return torch.maximum(v, (u.abs() * height + (v + height) * -half) / length)


# --- the scenery ------------------------------------------------------------------------------------------------------


def _scenery(views: Views, x: Tensor, y: Tensor) -> Tensor:
    n = len(views)
    picture = torch.zeros(n, 3, SIZE, SIZE)
    a, b, c = (views.jitter[:, i, None, None] for i in (5, 6, 7))
    for scene, paint in enumerate((_beach, _snow, _forest, _desert, _city, _sea, _meadow, _room)):
        rows = views.scene == scene
        if rows.any():
            blank = torch.zeros(int(rows.sum()), 3, SIZE, SIZE)
            picture[rows] = paint(blank, x, y, a[rows], b[rows], c[rows])
    return picture


def _fade(picture: Tensor, y: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    t = (y / SIZE)[:, None]
    return picture + top[:, :, None, None] * (1 - t) + bottom[:, :, None, None] * t


def _beach(p, x, y, a, b, c):
    p = _fade(p, y, _rgb(0.45, 0.75, 1.0), _rgb(0.85, 0.95, 1.0))
    p = _paint(p, torch.sqrt((x - 32 - 20 * a) ** 2 + (y - 9) ** 2) - 5, _rgb(1.0, 0.95, 0.5))
    p = _paint(p, 26 + 3 * b - y + 0 * x, _rgb(0.1, 0.45, 0.75))
    return _paint(p, 42 + 3 * c + 2 * torch.sin(x / 9 + 3 * a) - y, _rgb(0.95, 0.83, 0.55))


def _snow(p, x, y, a, b, c):
    p = _fade(p, y, _rgb(0.7, 0.76, 0.84), _rgb(0.88, 0.9, 0.94))
    p = _paint(p, 34 + 4 * b + 5 * torch.sin(x / 12 + 3 * a) - y, _rgb(0.97, 0.98, 1.0))
    for i in range(7):
        fx, fy = (x - (9 * i + 20 * c)) % SIZE, (y - (23 * i + 20 * a)) % SIZE
        p = _paint(p, torch.sqrt((fx - 32) ** 2 + (fy - 32) ** 2) - 1.2, _rgb(1.0, 1.0, 1.0))
    return p


def _forest(p, x, y, a, b, c):
    p = _fade(p, y, _rgb(0.18, 0.4, 0.2), _rgb(0.1, 0.26, 0.12))
    for i in range(4):
        centre = 8 + 16 * i + 5 * torch.sin(5 * a + 7 * i)
        p = _paint(p, (x - centre).abs() - 2.6 + 0 * y, _rgb(0.36, 0.23, 0.13))
    p = _paint(p, y - 10 - 3 * torch.sin(x / 5 + 4 * b), _rgb(0.12, 0.5, 0.18))
    return _paint(p, 55 + 2 * c - y + 0 * x, _rgb(0.3, 0.24, 0.12))


def _desert(p, x, y, a, b, c):
    p = _fade(p, y, _rgb(0.98, 0.6, 0.35), _rgb(1.0, 0.85, 0.6))
    p = _paint(p, 34 + 3 * b + 6 * torch.sin(x / 14 + 3 * a) - y, _rgb(0.85, 0.6, 0.3))
    p = _paint(p, 50 + 3 * c + 4 * torch.sin(x / 11 + 3 * b) - y, _rgb(0.75, 0.48, 0.22))
    cx = 32 + 26 * c
    return _paint(p, _box(x - cx, y - 30, 2.0, 9.0, 2.0), _rgb(0.2, 0.5, 0.25))


def _city(p, x, y, a, b, c):
    p = _fade(p, y, _rgb(0.04, 0.04, 0.15), _rgb(0.14, 0.12, 0.32))
    for i in range(5):
        height = 24 + 12 * torch.sin(9 * a + 4 * i)
        centre = 6.5 + 13 * i + 2 * b
        p = _paint(p, _box(x - centre, y - SIZE, 5.5, height + 10), _rgb(0.09, 0.09, 0.13))
        window = _box((x - centre).abs() - 2.5, ((y - 2 + 3 * c) % 8) - 4, 1.2, 1.6)
        inside = _box(x - centre, y - SIZE, 4.5, height + 7)
        p = _paint(p, torch.maximum(window, inside), _rgb(1.0, 0.85, 0.35))
    return p


def _sea(p, x, y, a, b, c):
    p = _fade(p, y, _rgb(0.1, 0.6, 0.8), _rgb(0.02, 0.16, 0.42))
    for i in range(5):
        bx, by = (x - (13 * i + 25 * a)) % SIZE, (y - (29 * i + 25 * b)) % SIZE
        r = torch.sqrt((bx - 32) ** 2 + (by - 32) ** 2)
        p = _paint(p, (r - 2.6).abs() - 0.6, _rgb(0.75, 0.95, 1.0))
    weed = (x - 32 - 25 * c + 2.5 * torch.sin(y / 4)).abs() - 1.8
    return _paint(p, torch.maximum(weed, 38 - y), _rgb(0.1, 0.5, 0.3))


def _meadow(p, x, y, a, b, c):
    p = _fade(p, y, _rgb(0.5, 0.8, 1.0), _rgb(0.9, 0.97, 1.0))
    p = _paint(p, _ellipse(x - 32 - 22 * c, y - 10 + 2 * a, 9.0, 3.5), _rgb(1.0, 1.0, 1.0))
    p = _paint(p, 36 + 3 * b + 3 * torch.sin(x / 13 + 3 * a) - y, _rgb(0.45, 0.78, 0.3))
    for i in range(6):
        fx = (11 * i + 30 * a) % SIZE
        fy = 46 + 13 * torch.sin(3 * c + 5.0 * i).abs()
        p = _paint(p, torch.sqrt((x - fx) ** 2 + (y - fy) ** 2) - 1.6, _rgb(1.0, 0.95, 0.95))
    return p


def _room(p, x, y, a, b, c):
    p = p + _rgb(0.78, 0.66, 0.74)[:, :, None, None]
    p = _paint(p, 46 + 3 * b - y + 0 * x, _rgb(0.5, 0.33, 0.22))
    wx = 32 + 20 * a
    p = _paint(p, _box(x - wx, y - 15 + 2 * c, 8.0, 8.0), _rgb(0.95, 0.95, 0.9))
    for side in (-3.5, 3.5):
        p = _paint(p, _box(x - wx - side, y - 15 + 2 * c, 2.8, 6.6), _rgb(0.6, 0.82, 0.95))
    return p


# --- the creature -----------------------------------------------------------------------------------------------------


def _creature(picture: Tensor, s: Subjects, views: Views, x: Tensor, y: Tensor) -> Tensor:
    jitter = views.jitter
    radius = (torch.where(views.size == 0, 12.5, 18.0) * (1 + 0.06 * jitter[:, 2]))[:, None, None]
    cx = (32 + (views.place - 1) * 14.5 + 2.5 * jitter[:, 0])[:, None, None]
    cy = (38 + 3 * jitter[:, 1])[:, None, None]
    angle = 0.16 * jitter[:, 3, None, None]
    dx, dy = (x - cx) / radius, (y - cy) / radius
    u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    side = u.abs()

    def kind(tensor: Tensor, index: int) -> Tensor:
        return (tensor == index).float()

    def paint(p: Tensor, distance: Tensor, colour: Tensor, where: Tensor | None = None) -> Tensor:
        return _paint(p, distance * radius, colour, where)

    skin = _hsv(s.skin_hue, 0.75 - 0.25 * s.lightness, 0.5 + 0.48 * s.lightness)
    accent = _hsv(s.pattern_hue, 0.8, 0.85)
    hat_colour = _hsv(s.hat_hue, 0.85, 0.8)
    eye_colour = _hsv(s.eye_hue, 0.9, 0.75)
    line = _rgb(0.07, 0.06, 0.09)
    white = _rgb(1.0, 1.0, 1.0)
    stroke = 1.1 / radius

    bodies = torch.stack(
        [
            _ellipse(u, v, 0.82, 0.82),
            _ellipse(u, v, 0.62, 0.95),
            _ellipse(u, v, 1.0, 0.68),
            _box(u, v, 0.76, 0.76, 0.22),
        ]
    )
    body = bodies.gather(0, s.shape[None, :, None, None].expand(1, -1, SIZE, SIZE))[0]
    top = torch.tensor([0.82, 0.95, 0.68, 0.76])[s.shape][:, None, None]  # where the head ends

    ears = (
        (1, torch.sqrt((side - 0.52) ** 2 + (v + top * 0.82) ** 2) - 0.3),
        (2, _triangle((side - 0.46), v + top * 0.62, 0.26, 0.72)),
        (3, _ellipse(side - 0.4, v + top + 0.2, 0.17, 0.58)),
    )
    for index, distance in ears:
        picture = paint(picture, distance - stroke, line, kind(s.ears, index))
        picture = paint(picture, distance, skin, kind(s.ears, index))
        picture = paint(picture, distance + 0.12, accent, kind(s.ears, index))

    picture = paint(picture, body - stroke, line)
    picture = paint(picture, body, skin)
    spots = torch.sqrt(((u + 0.24) % 0.48 - 0.24) ** 2 + ((v + 0.1) % 0.48 - 0.24) ** 2) - 0.14
    stripes = ((v + 0.14) % 0.4 - 0.2).abs() - 0.085
    belly = _ellipse(u, v - 0.42, 0.5, 0.42)
    patterns = ((1, spots, accent), (2, stripes, accent), (3, belly, _rgb(0.97, 0.95, 0.9)))
    for index, distance, colour in patterns:
        picture = paint(picture, torch.maximum(distance, body), colour, kind(s.pattern, index))

    eye_x, eye_y, eye = s.eye_distance[:, None, None], -0.2, s.eye_size[:, None, None]
    eyeball = torch.sqrt((side - eye_x) ** 2 + (v - eye_y) ** 2)
    picture = paint(picture, eyeball - eye - 0.6 * stroke, line)
    picture = paint(picture, eyeball - eye, white)
    picture = paint(picture, eyeball - 0.64 * eye, eye_colour)
    smile = 0.1 + 0.08 * jitter[:, 4, None, None]
    picture = paint(picture, _ellipse(u, v - 0.3, 0.24, smile), line)

    crown = v + top
    hats = (
        (1, torch.minimum(_box(u, crown + 0.38, 0.36, 0.36), _box(u, crown + 0.02, 0.62, 0.08))),
        (2, _triangle(u, crown - 0.1, 0.48, 1.0)),
        (3, torch.minimum(torch.maximum(_ellipse(u, crown - 0.06, 0.56, 0.4), crown - 0.06), _box(u - 0.5, crown, 0.42, 0.07))),
    )
    for index, distance in hats:
        picture = paint(picture, distance - stroke, line, kind(s.hat, index))
        picture = paint(picture, distance, hat_colour, kind(s.hat, index))
    return picture
