"""Convolutional blocks of the zoo's small models."""

from torch import nn

# --- the judges -------------------------------------------------------------------------------------------------------


def strided(before: int, widths: tuple[int, ...]) -> list[nn.Module]:
    """Convolutions without residuals; each width halves the sides."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        before = width
    return layers
