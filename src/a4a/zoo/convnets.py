"""The convolutional network that the zoo's scorers and the teacher of its largest CLIP are made of."""

from collections.abc import Sequence

from torch import nn


def strided_layers(channels: int, widths: Sequence[int]) -> list[nn.Module]:
    """Pairs of 3 x 3 convolutions with group normalisation, without residuals; each width halves the sides.

    [batch, channels, height, width] to [batch, widths[-1], height / 2^n, width / 2^n] for n widths.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        channels = width
    return layers


class ConvNet(nn.Sequential):
    """Images [batch, channels, height, width] to one vector each, [batch, out]."""

    def __init__(self, channels: int, widths: Sequence[int], out: int):
        super().__init__(
            *strided_layers(channels, widths), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], out)
        )
