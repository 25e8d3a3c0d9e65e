"""Draw subjects in their views, a whole batch at once, as tensors.

Every part is a signed distance: negative inside, positive outside, in pixels or in radii of the body. An image depends
on nothing but its subject and view.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from a4a.zoo.world import SIZE, Subjects, Views


def draw(subjects: Subjects, views: Views) -> Tensor:
    """Images [n, 3, 64, 64] in [0, 1], of n subjects in as many views."""
    axis = torch.arange(SIZE, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    images = _scenery(views, x[None], y[None])
    return _creature(images, subjects, views, x[None], y[None]).clamp(0, 1)


# --- colours, shapes --------------------------------------------------------------------------------------------------


def _hsv(hue: Tensor, saturation: float | Tensor, value: float | Tensor) -> Tensor:
    """Colours [n, 3] in RGB from hues in turns [n], saturation and value."""
    ramp = (hue[:, None] * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
    level = torch.minimum(ramp, 4 - ramp).clamp(0, 1)
    saturation, value = (torch.as_tensor(v).reshape(-1, 1) for v in (saturation, value))
    return value * (1 - saturation * level)


def _rgb(*triple: float) -> Tensor:
    return torch.tensor([triple])


def _paint(images: Tensor, distance: Tensor, colour: Tensor, where: Tensor | None = None) -> Tensor:
    """Cover the inside of a part with a colour.

    Args:
        images: [n, 3, height, width].
        distance: signed, in pixels, [n or 1, height, width].
        colour: [n or 1, 3].
        where: [n], 0 for images without this part; all have it by default.
    """
    alpha = (0.5 - distance).clamp(0, 1)
    if where is not None:
        alpha = alpha * where[:, None, None]
    alpha = alpha[:, None]
    return images * (1 - alpha) + colour[:, :, None, None] * alpha


def _ellipse(u: Tensor, v: Tensor, a: float | Tensor, b: float | Tensor) -> Tensor:
    """Distance to an axis-aligned ellipse, exact to first order, in the units of u, v."""
    k = torch.sqrt((u / a) ** 2 + (v / b) ** 2) + 1e-6
    grad = torch.sqrt((u / a**2) ** 2 + (v / b**2) ** 2) + 1e-6
    return k * (k - 1) / grad


def _box(u: Tensor, v: Tensor, a: float | Tensor, b: float | Tensor, corner: float = 0.0) -> Tensor:
    """Distance to a rectangle of half sides a and b with round corners."""
    p, q = u.abs() - a + corner, v.abs() - b + corner
    return torch.sqrt(p.clamp(min=0) ** 2 + q.clamp(min=0) ** 2) + torch.maximum(p, q).clamp(max=0) - corner


def _triangle(u: Tensor, v: Tensor, half: float, height: float) -> Tensor:
    """Point up, base from -half to half on v = 0, tip at v = -height."""
    length = math.hypot(half, height)
    return torch.maximum(v, (u.abs() * height + (v + height) * -half) / length)


# --- the scenery ------------------------------------------------------------------------------------------------------


def _scenery(views: Views, x: Tensor, y: Tensor) -> Tensor:
    """The background of each view. A scene takes blank images, pixel coordinates and three random numbers an image."""
    images = torch.zeros(len(views), 3, SIZE, SIZE)
    a, b, c = (views.jitter[:, i, None, None] for i in (5, 6, 7))
    scenes = (_beach, _snow, _forest, _desert, _city, _sea, _meadow, _room)  # in the order of SCENES
    for index, scene in enumerate(scenes):
        rows = views.scene == index
        if rows.any():
            blank = torch.zeros(int(rows.sum()), 3, SIZE, SIZE)
            images[rows] = scene(blank, x, y, a[rows], b[rows], c[rows])
    return images


def _fade(images: Tensor, y: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """Add a vertical gradient."""
    t = (y / SIZE)[:, None]
    return images + top[:, :, None, None] * (1 - t) + bottom[:, :, None, None] * t


def _beach(p: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p = _fade(p, y, _rgb(0.45, 0.75, 1.0), _rgb(0.85, 0.95, 1.0))
    p = _paint(p, torch.sqrt((x - 32 - 20 * a) ** 2 + (y - 9) ** 2) - 5, _rgb(1.0, 0.95, 0.5))
    p = _paint(p, 26 + 3 * b - y + 0 * x, _rgb(0.1, 0.45, 0.75))
    return _paint(p, 42 + 3 * c + 2 * torch.sin(x / 9 + 3 * a) - y, _rgb(0.95, 0.83, 0.55))


def _snow(p: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p = _fade(p, y, _rgb(0.7, 0.76, 0.84), _rgb(0.88, 0.9, 0.94))
    p = _paint(p, 34 + 4 * b + 5 * torch.sin(x / 12 + 3 * a) - y, _rgb(0.97, 0.98, 1.0))
    for i in range(7):
        fx, fy = (x - (9 * i + 20 * c)) % SIZE, (y - (23 * i + 20 * a)) % SIZE
        p = _paint(p, torch.sqrt((fx - 32) ** 2 + (fy - 32) ** 2) - 1.2, _rgb(1.0, 1.0, 1.0))
    return p


def _forest(p: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p = _fade(p, y, _rgb(0.18, 0.4, 0.2), _rgb(0.1, 0.26, 0.12))
    for i in range(4):
        centre = 8 + 16 * i + 5 * torch.sin(5 * a + 7 * i)
        p = _paint(p, (x - centre).abs() - 2.6 + 0 * y, _rgb(0.36, 0.23, 0.13))
    p = _paint(p, y - 10 - 3 * torch.sin(x / 5 + 4 * b), _rgb(0.12, 0.5, 0.18))
    return _paint(p, 55 + 2 * c - y + 0 * x, _rgb(0.3, 0.24, 0.12))


def _desert(p: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p = _fade(p, y, _rgb(0.98, 0.6, 0.35), _rgb(1.0, 0.85, 0.6))
    p = _paint(p, 34 + 3 * b + 6 * torch.sin(x / 14 + 3 * a) - y, _rgb(0.85, 0.6, 0.3))
    p = _paint(p, 50 + 3 * c + 4 * torch.sin(x / 11 + 3 * b) - y, _rgb(0.75, 0.48, 0.22))
    cx = 32 + 26 * c
    return _paint(p, _box(x - cx, y - 30, 2.0, 9.0, 2.0), _rgb(0.2, 0.5, 0.25))


def _city(p: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p = _fade(p, y, _rgb(0.04, 0.04, 0.15), _rgb(0.14, 0.12, 0.32))
    for i in range(5):
        height = 24 + 12 * torch.sin(9 * a + 4 * i)
        centre = 6.5 + 13 * i + 2 * b
        p = _paint(p, _box(x - centre, y - SIZE, 5.5, height + 10), _rgb(0.09, 0.09, 0.13))
        window = _box((x - centre).abs() - 2.5, ((y - 2 + 3 * c) % 8) - 4, 1.2, 1.6)
        inside = _box(x - centre, y - SIZE, 4.5, height + 7)
        p = _paint(p, torch.maximum(window, inside), _rgb(1.0, 0.85, 0.35))
    return p


def _sea(p: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p = _fade(p, y, _rgb(0.1, 0.6, 0.8), _rgb(0.02, 0.16, 0.42))
    for i in range(5):
        bx, by = (x - (13 * i + 25 * a)) % SIZE, (y - (29 * i + 25 * b)) % SIZE
        r = torch.sqrt((bx - 32) ** 2 + (by - 32) ** 2)
        p = _paint(p, (r - 2.6).abs() - 0.6, _rgb(0.75, 0.95, 1.0))
    weed = (x - 32 - 25 * c + 2.5 * torch.sin(y / 4)).abs() - 1.8
    return _paint(p, torch.maximum(weed, 38 - y), _rgb(0.1, 0.5, 0.3))


def _meadow(p: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p = _fade(p, y, _rgb(0.5, 0.8, 1.0), _rgb(0.9, 0.97, 1.0))
    p = _paint(p, _ellipse(x - 32 - 22 * c, y - 10 + 2 * a, 9.0, 3.5), _rgb(1.0, 1.0, 1.0))
    p = _paint(p, 36 + 3 * b + 3 * torch.sin(x / 13 + 3 * a) - y, _rgb(0.45, 0.78, 0.3))
    for i in range(6):
        fx = (11 * i + 30 * a) % SIZE
        fy = 46 + 13 * torch.sin(3 * c + 5.0 * i).abs()
        p = _paint(p, torch.sqrt((x - fx) ** 2 + (y - fy) ** 2) - 1.6, _rgb(1.0, 0.95, 0.95))
    return p


def _room(p: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p = p + _rgb(0.78, 0.66, 0.74)[:, :, None, None]
    p = _paint(p, 46 + 3 * b - y + 0 * x, _rgb(0.5, 0.33, 0.22))
    wx = 32 + 20 * a
    p = _paint(p, _box(x - wx, y - 15 + 2 * c, 8.0, 8.0), _rgb(0.95, 0.95, 0.9))
    for side in (-3.5, 3.5):
        p = _paint(p, _box(x - wx - side, y - 15 + 2 * c, 2.8, 6.6), _rgb(0.6, 0.82, 0.95))
    return p


# --- the creature -----------------------------------------------------------------------------------------------------

LINE = _rgb(0.07, 0.06, 0.09)
WHITE = _rgb(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class _Frame:
    """Each creature's own coordinates, in radii of its body, with its centre at 0 and its rotation undone."""

    u: Tensor
    """To the right, [n, height, width]."""
    v: Tensor
    """Down, [n, height, width]."""
    radius: Tensor
    """In pixels, [n, 1, 1]."""

    @classmethod
    def of(cls, views: Views, x: Tensor, y: Tensor) -> Self:
        jitter = views.jitter
        radius = (torch.where(views.size == 0, 12.5, 18.0) * (1 + 0.06 * jitter[:, 2]))[:, None, None]
        centre_x = (32 + (views.place - 1) * 14.5 + 2.5 * jitter[:, 0])[:, None, None]
        centre_y = (38 + 3 * jitter[:, 1])[:, None, None]
        angle = 0.16 * jitter[:, 3, None, None]
        dx, dy = (x - centre_x) / radius, (y - centre_y) / radius
        return cls(dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin(), radius)

    @property
    def side(self) -> Tensor:
        """Distance from the axis of symmetry."""
        return self.u.abs()

    @property
    def stroke(self) -> Tensor:
        """Width of an outline."""
        return 1.1 / self.radius

    def paint(self, images: Tensor, distance: Tensor, colour: Tensor, where: Tensor | None = None) -> Tensor:
        return _paint(images, distance * self.radius, colour, where)


def _creature(images: Tensor, subjects: Subjects, views: Views, x: Tensor, y: Tensor) -> Tensor:
    frame = _Frame.of(views, x, y)
    skin = _hsv(subjects.skin_hue, 0.75 - 0.25 * subjects.lightness, 0.5 + 0.48 * subjects.lightness)
    accent = _hsv(subjects.pattern_hue, 0.8, 0.85)
    top = torch.tensor([0.82, 0.95, 0.68, 0.76])[subjects.shape][:, None, None]  # height of the head above the centre
    images = _ears(images, subjects, frame, top, skin, accent)
    images = _body(images, subjects, frame, skin, accent)
    images = _face(images, subjects, views, frame)
    return _hat(images, subjects, frame, top)


def _is(kinds: Tensor, index: int) -> Tensor:
    return (kinds == index).float()


def _ears(images: Tensor, s: Subjects, frame: _Frame, top: Tensor, skin: Tensor, accent: Tensor) -> Tensor:
    side, v = frame.side, frame.v
    ears = (
        (1, torch.sqrt((side - 0.52) ** 2 + (v + top * 0.82) ** 2) - 0.3),
        (2, _triangle((side - 0.46), v + top * 0.62, 0.26, 0.72)),
        (3, _ellipse(side - 0.4, v + top + 0.2, 0.17, 0.58)),
    )
    for index, distance in ears:
        images = frame.paint(images, distance - frame.stroke, LINE, _is(s.ears, index))
        images = frame.paint(images, distance, skin, _is(s.ears, index))
        images = frame.paint(images, distance + 0.12, accent, _is(s.ears, index))
    return images


def _body(images: Tensor, s: Subjects, frame: _Frame, skin: Tensor, accent: Tensor) -> Tensor:
    u, v = frame.u, frame.v
    shapes = torch.stack(
        [
            _ellipse(u, v, 0.82, 0.82),
            _ellipse(u, v, 0.62, 0.95),
            _ellipse(u, v, 1.0, 0.68),
            _box(u, v, 0.76, 0.76, 0.22),
        ]
    )
    body = shapes.gather(0, s.shape[None, :, None, None].expand(1, -1, SIZE, SIZE))[0]
    images = frame.paint(images, body - frame.stroke, LINE)
    images = frame.paint(images, body, skin)
    spots = torch.sqrt(((u + 0.24) % 0.48 - 0.24) ** 2 + ((v + 0.1) % 0.48 - 0.24) ** 2) - 0.14
    stripes = ((v + 0.14) % 0.4 - 0.2).abs() - 0.085
    belly = _ellipse(u, v - 0.42, 0.5, 0.42)
    for index, distance, colour in ((1, spots, accent), (2, stripes, accent), (3, belly, _rgb(0.97, 0.95, 0.9))):
        images = frame.paint(images, torch.maximum(distance, body), colour, _is(s.pattern, index))
    return images


def _face(images: Tensor, s: Subjects, views: Views, frame: _Frame) -> Tensor:
    eye_x, eye_y, eye = s.eye_distance[:, None, None], -0.2, s.eye_size[:, None, None]
    eyeball = torch.sqrt((frame.side - eye_x) ** 2 + (frame.v - eye_y) ** 2)
    images = frame.paint(images, eyeball - eye - 0.6 * frame.stroke, LINE)
    images = frame.paint(images, eyeball - eye, WHITE)
    images = frame.paint(images, eyeball - 0.64 * eye, _hsv(s.eye_hue, 0.9, 0.75))
    smile = 0.1 + 0.08 * views.jitter[:, 4, None, None]
    return frame.paint(images, _ellipse(frame.u, frame.v - 0.3, 0.24, smile), LINE)


def _hat(images: Tensor, s: Subjects, frame: _Frame, top: Tensor) -> Tensor:
    u, crown = frame.u, frame.v + top
    top_hat = torch.minimum(_box(u, crown + 0.38, 0.36, 0.36), _box(u, crown + 0.02, 0.62, 0.08))
    dome = torch.maximum(_ellipse(u, crown - 0.06, 0.56, 0.4), crown - 0.06)
    cap = torch.minimum(dome, _box(u - 0.5, crown, 0.42, 0.07))
    colour = _hsv(s.hat_hue, 0.85, 0.8)
    for index, distance in ((1, top_hat), (2, _triangle(u, crown - 0.1, 0.48, 1.0)), (3, cap)):
        images = frame.paint(images, distance - frame.stroke, LINE, _is(s.hat, index))
        images = frame.paint(images, distance, colour, _is(s.hat, index))
    return images
