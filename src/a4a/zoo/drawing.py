"""Draw creatures and scenes as tensors, with signed distances."""

import math

import torch
from torch import Tensor

from a4a.zoo.world import SIZE, Subjects, Views


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
        (
            3,
            torch.minimum(
                torch.maximum(_ellipse(u, crown - 0.06, 0.56, 0.4), crown - 0.06), _box(u - 0.5, crown, 0.42, 0.07)
            ),
        ),
    )
    for index, distance in hats:
        picture = paint(picture, distance - stroke, line, kind(s.hat, index))
        picture = paint(picture, distance, hat_colour, kind(s.hat, index))
    return picture
