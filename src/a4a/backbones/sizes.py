"""The size conditions of a training image, which SDXL and the 1024-pixel PixArt-alpha take."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class SizeConditions:
    """Sizes of images in pixels, height before width; each tensor is [batch, 2] (SDXL, arXiv 2307.01952, sec. 2.2).

    SDXL takes all of them as `time_ids`, as in IP-Adapter's training and that of diffusers. PixArt-alpha takes
    `original_size` as `resolution`, and height / width of `target_size` as `aspect_ratio`, as in its own training.
    """

    original_size: Tensor
    """Of the image before it was resized."""
    crop_top_left: Tensor
    """(top, left) of the crop, in pixels of the resized image; for a mirror image, in the mirrored one."""
    target_size: Tensor
    """Of the crop, which the model is trained on."""

    @classmethod
    def uncropped(cls, rows: int, height: int, width: int, device: torch.device | str = "cpu") -> Self:
        """Those of images that were neither resized nor cropped, which is what pipelines assume by default."""
        size = torch.tensor([[height, width]], device=device).expand(rows, 2)
        return cls(size, torch.zeros_like(size), size)

    @classmethod
    def of_batch(cls, batch: Mapping[str, Any]) -> Self | None:
        """Those of a training batch, which has them under their names; None where it has none."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: batch[name] for name in names}) if names[0] in batch else None

    def rows(self, indices: Tensor) -> dict[str, Tensor]:
        """The sizes of some images, by name, for a training batch."""
        return {name: size[indices] for name, size in vars(self).items()}
