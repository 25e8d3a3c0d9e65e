"""`a4a x-adapter`: the training of X-Adapter's mapper. No image prompt takes part in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from a4a.backbones import Backbone, Text, backbone_for, load_pipeline
from a4a.backbones.prediction import TimestepDensity
from a4a.baselines.base import check_pair
from a4a.baselines.x_adapter import XAdapter, added, recorded, resized, side
from a4a.data.base import TrainingImages
from a4a.training.base import Batch, Dataset, Objective
from a4a.training.config import TrainingConfig
from a4a.training.trainer import train
from a4a.utils.files import atomic_write


class Joined:
    """Several encodings of the same samples as one dataset, whose keys are `NAME.KEY`."""

    def __init__(self, datasets: Mapping[str, Dataset]):
        self.datasets = datasets

    def __len__(self) -> int:
        return min(len(dataset) for dataset in self.datasets.values())

    def batch(self, indices: Tensor) -> Batch:
        return {
            f"{name}.{key}": value
            for name, dataset in self.datasets.items()
            for key, value in dataset.batch(indices).items()
        }


class Resized(TrainingImages):
    """The same images, `factor` times as high and wide."""

    def __init__(self, pictures: TrainingImages, factor: float):
        self._pictures, self._factor = pictures, factor
        self.captions, self.pairs, self.key = pictures.captions, pictures.pairs, f"{pictures.key} x {factor}"

    def __len__(self) -> int:
        return len(self._pictures)

    def pixels(self, indices: Tensor) -> Tensor:
        pixels = self._pictures.pixels(indices)
        height, width = (round(s * self._factor) for s in pixels.shape[-2:])
        return resized(pixels, height, width)


class XAdapterMapping(Objective):
    """The upgraded model's own loss, without any text, while the base model denoises the same picture with its caption.

    Both are at the same time step, each with noise of its own. Only the mapper learns.
    """

    def __init__(self, base: Backbone, upgraded: Backbone, mapper: XAdapter, learning_rate: float = 1e-5):
        super().__init__()
        check_pair(base, upgraded)
        mapper.check(base.denoiser, upgraded.denoiser)
        for backbone in (base, upgraded):
            backbone.denoiser.eval().requires_grad_(False)
        self.mapper, self.learning_rate = mapper.train().requires_grad_(True), learning_rate
        self._base, self._upgraded, self._no_text = base, upgraded, upgraded.no_text()
        self._predictions = base.prediction, upgraded.prediction

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "mapper", "params": list(self.mapper.parameters()), "lr": self.learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        """`base.latents` and `upgraded.latents` [batch, channels, height, width] of the same images.

        `base.text.*` are the text states of their captions.
        """
        theirs, latents = batch["base.latents"].float(), batch["upgraded.latents"].float()
        base, upgraded = self._base, self._upgraded
        below, above = self._predictions
        timesteps = below.sample_timesteps(len(latents), latents.device, TimestepDensity())
        text: Text = {name.removeprefix("base.text."): t for name, t in batch.items() if name.startswith("base.text.")}
        no_text = {name: t.to(latents.device).expand(len(latents), *t.shape[1:]) for name, t in self._no_text.items()}

        noisy = below.add_noise(theirs, torch.randn_like(theirs), timesteps)
        with torch.no_grad(), recorded(base.denoiser) as steps:
            base.predict(noisy.to(base.dtype), timesteps, text)
        noise = torch.randn_like(latents)
        noisy = above.add_noise(latents, noise, timesteps)
        with added(upgraded.denoiser, self.mapper, steps):
            prediction = upgraded.predict(noisy.to(upgraded.dtype), timesteps, no_text)
        return (prediction.float() - above.target(latents, noise, timesteps)).square().mean()


def train_x_adapter(
    base: Path,
    model: Path,
    data: TrainingImages,
    output: Path,
    learning_rate: float = 1e-5,
    training: TrainingConfig = TrainingConfig(),
    cache: Path | None = None,
    resume: bool = False,
) -> XAdapter:
    """Train X-Adapter's mapper from a base model's U-Net to an upgraded model's: a baseline of the paper.

    Args:
        base: The base model: a diffusers pipeline folder or hub name.
        model: The upgraded model: a diffusers pipeline folder or hub name.
        data: Training images at the upgraded model's size, for example class_path ImageFolderDataset with path, size.
        output: Folder for the mapper (output/x_adapter), log.csv and checkpoints.
        learning_rate: Of the mapper.
        training: Samples, batch, schedule, checkpoints.
        cache: Folder for encodings of the data; output/cache by default.
        resume: Go on with the run that output holds.
    """
    output = Path(output)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    below, above = (load_pipeline(path).to(device) for path in (base, model))
    backbones = backbone_for(below), backbone_for(above)
    torch.manual_seed(training.seed)
    mapper = XAdapter.between(*(b.denoiser for b in backbones)).to(device)  # pyright: ignore[reportArgumentType]
    loss = XAdapterMapping(*backbones, mapper, learning_rate)
    factor, folder = side(below) / side(above), Path(cache) if cache else output / "cache"
    smaller = data if factor == 1 else Resized(data, factor)
    dataset = Joined(
        {"base": smaller.encode(backbones[0], None, folder), "upgraded": data.encode(backbones[1], None, folder)}
    )

    train(loss, dataset, training, output, resume=resume, description=output.name)
    mapper.eval()
    with atomic_write(output / "x_adapter") as beside:
        mapper.save_pretrained(beside)
    return mapper
