"""`a4a x-adapter`: the training of X-Adapter's mapper. It uses no image prompt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from a4a.backbones import Backbone, SizeConditions, Text, backbone_for, load_pipeline
from a4a.backbones.prediction import TimestepDensity
from a4a.baselines.base import check_pair
from a4a.baselines.x_adapter import XAdapter, add_residuals, record_features
from a4a.baselines.x_adapter_pipeline import resized, side
from a4a.data.base import TrainingImages
from a4a.training.base import Batch, Dataset, Objective
from a4a.training.checkpoint import SavedModel
from a4a.training.config import TrainingConfig
from a4a.training.distributed import process_device, state
from a4a.training.trainer import train
from a4a.utils.files import atomic_write


class Joined:
    """Several encodings of the same samples as one dataset: key KEY of the dataset NAME becomes `NAME.KEY`."""

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
    """The same images, resized to `factor` times their height and width."""

    def __init__(self, images: TrainingImages, factor: float):
        self._images, self._factor = images, factor
        self.captions, self.pairs, self.key = images.captions, images.pairs, f"{images.key} x {factor}"

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, indices: Tensor) -> Tensor:
        pixels = self._images.pixels(indices)
        height, width = (round(s * self._factor) for s in pixels.shape[-2:])
        return resized(pixels, height, width)

    def sizes(self, indices: Tensor) -> SizeConditions:
        sizes = self._images.sizes(indices)
        crop, target = ((size * self._factor).round().long() for size in (sizes.crop_top_left, sizes.target_size))
        return SizeConditions(sizes.original_size, crop, target)


class XAdapterMapping(Objective):
    """The upgraded model's own loss, with empty prompts, while the base model denoises the same image with its caption.

    Both models are at the same time step, each with its own noise. Only the mapper is trained.
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
        base_latents, latents = batch["base.latents"].float(), batch["upgraded.latents"].float()
        base, upgraded = self._base, self._upgraded
        base_prediction, upgraded_prediction = self._predictions
        mu = base.shift_mu(base_latents)
        timesteps = base_prediction.sample_timesteps(len(latents), latents.device, TimestepDensity(), mu)
        text: Text = _part(batch, "base.text")
        base_sizes, sizes = (SizeConditions.of_batch(_part(batch, name)) for name in ("base", "upgraded"))
        no_text = {name: t.to(latents.device).expand(len(latents), *t.shape[1:]) for name, t in self._no_text.items()}

        noisy = base_prediction.add_noise(base_latents, torch.randn_like(base_latents), timesteps)
        with torch.no_grad(), record_features(base.denoiser) as steps:
            base.predict(noisy.to(base.dtype), timesteps, text, base_sizes)
        noise = torch.randn_like(latents)
        noisy = upgraded_prediction.add_noise(latents, noise, timesteps)
        with add_residuals(upgraded.denoiser, self.mapper, steps):
            prediction = upgraded.predict(noisy.to(upgraded.dtype), timesteps, no_text, sizes)
        return (prediction.float() - upgraded_prediction.target(latents, noise, timesteps)).square().mean()


def train_x_adapter(
    base: Path,
    model: Path,
    data: TrainingImages,
    output: Path,
    learning_rate: float = 1e-5,
    training: TrainingConfig = TrainingConfig(),
    cache: Path | None = None,
    resume: bool = False,
    frozen: Literal["float32", "bfloat16", "float16"] = "float32",
    gradient_checkpointing: bool = False,
) -> XAdapter:
    """Train X-Adapter's mapper from a base model's U-Net to an upgraded model's; X-Adapter is a baseline of the paper.

    Args:
        base: The base model: a diffusers pipeline folder or hub name.
        model: The upgraded model: a diffusers pipeline folder or hub name.
        data: Training images at the upgraded model's size, for example class_path ImageFolderDataset with path, size.
        output: Folder for the mapper (output/x_adapter), log.csv and checkpoints.
        learning_rate: Learning rate of the mapper.
        training: Samples, batch, schedule, checkpoints.
        cache: Folder for encodings of the data; output/cache by default.
        resume: Continue the run in output.
        frozen: Precision of the two models; the mapper stays float32.
        gradient_checkpointing: Recompute the upgraded model's blocks in the backward pass: less memory, slower steps.
    """
    output = Path(output)
    device: Any = process_device()  # of any type, since diffusers' own `to` is not typed
    dtype: torch.dtype = getattr(torch, frozen)
    base_backbone, upgraded_backbone = (
        backbone_for(load_pipeline(path, dtype, parts="unfiltered").to(device)) for path in (base, model)
    )
    torch.manual_seed(training.seed)
    mapper = XAdapter.between(base_backbone.denoiser, upgraded_backbone.denoiser).to(device)
    objective = XAdapterMapping(base_backbone, upgraded_backbone, mapper, learning_rate)
    if gradient_checkpointing:
        upgraded_backbone.denoiser.enable_gradient_checkpointing()
    with state().main_process_first():  # the other processes then find its cache
        dataset = _encoded(data, base_backbone, upgraded_backbone, Path(cache) if cache else output / "cache")

    saved = SavedModel("mapper", lambda folder, _: mapper.save_pretrained(folder))
    train(objective, dataset, training, output, resume=resume, description=output.name, model=saved)
    mapper.eval()
    if state().is_main_process:
        with atomic_write(output / "x_adapter") as temporary:
            mapper.save_pretrained(temporary)
    return mapper


def _part(batch: Batch, name: str) -> Batch:
    """What a batch holds as NAME.KEY, by KEY."""
    return {key.removeprefix(f"{name}."): value for key, value in batch.items() if key.startswith(f"{name}.")}


def _encoded(data: TrainingImages, base: Backbone, upgraded: Backbone, cache: Path) -> Joined:
    """The images for both models, each at its own size."""
    factor = side(base.pipe) / side(upgraded.pipe)
    base_images = data if factor == 1 else Resized(data, factor)
    return Joined({"base": base_images.encode(base, None, cache), "upgraded": data.encode(upgraded, None, cache)})
