"""Eq. 14: the upgraded model's own training loss, with the adapter's features injected."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from a4a.adapters.base import ImagePromptAdapter
from a4a.backbones import Backbone, SizeConditions, Text
from a4a.backbones.prediction import Density, TimestepDensity, Weighting
from a4a.errors import InputError
from a4a.injection import Injection
from a4a.training.base import Batch, Objective


@dataclass
class LearningRates:
    """Learning rates by kind of parameter (the paper's asynchronous training)."""

    projection: float = 1e-5
    """Coupling space projection and alignment."""
    mapping: float = 1e-4
    """All else in A4A."""
    adapter: float = 1e-6
    """The source adapter where it is fine-tuned; a whole IP-Adapter that is trained from scratch."""
    denoiser: float = 1e-4
    """The denoiser itself, where no adapter is trained."""


@dataclass
class ConditionDropout:
    """Probabilities of dropping a sample's conditions in training, which classifier-free guidance needs."""

    image: float = 0.05
    """Of dropping the image alone."""
    text: float = 0.05
    """Of dropping the text alone."""
    both: float = 0.05
    """Of dropping both."""


@dataclass
class ObjectiveConfig:
    """Loss and learning rates."""

    rates: LearningRates = field(default_factory=LearningRates)
    dropping: ConditionDropout = field(default_factory=ConditionDropout)
    train_source: bool = False
    """Fine-tune the source adapter too (A4A only)."""
    weighting: Weighting = "none"
    """Loss weights of the time steps: none, as in the paper; min_snr (diffusion models) favours noisy steps;
    sigma_sqrt and cosmap (flow-matching models) are SD3's."""
    gamma: float = 5.0
    """Of min_snr: the largest signal-to-noise ratio that counts."""
    timesteps: Density | None = None
    """How time steps are drawn: uniform, or by SD3's densities (arXiv 2403.03206, sec. 3.1). By default as the model's
    authors drew them: uniform for diffusion models, as in the paper."""
    logit_mean: float = 0.0
    """Of logit_normal: above zero favours noisy steps."""
    logit_std: float = 1.0
    """Of logit_normal: a smaller one keeps closer to the middle."""
    mode_scale: float = 1.29
    """Of mode: above zero favours the middle, -1 the ends."""
    gradient_checkpointing: bool = False
    """Recompute the denoiser's blocks in the backward pass: less memory, slower steps."""
    compile: bool = False
    """torch.compile the denoiser's repeated blocks: a minute at the start, faster steps after it."""

    @property
    def density(self) -> TimestepDensity | None:
        """The distribution that time steps are drawn from; None for the model's own."""
        if self.timesteps is None:
            return None
        return TimestepDensity(self.timesteps, self.logit_mean, self.logit_std, self.mode_scale)


class Denoising(Objective):
    """The denoising loss (eq. 14) of a frozen denoiser with an adapter that is trained.

    Without an adapter, the denoiser itself is trained.

    Args:
        backbone: the denoiser and its pipeline.
        adapter: makes the features that are injected.
        config: loss and learning rates.
        no_text: text states of the empty prompt, one row; encoded by the pipeline where None.
        no_image: the image encoder's tokens of a zero image, one row; only for adapters that take tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: ImagePromptAdapter | None,
        config: ObjectiveConfig,
        no_text: Text | None = None,
        no_image: Tensor | None = None,
    ):
        super().__init__()
        self._no_image = no_image
        self.config, self.adapter = config, adapter
        self.denoiser = backbone.denoiser.train(adapter is None).requires_grad_(adapter is None)
        self._backbone = backbone
        if adapter is not None:
            backbone.choose_sites_of(adapter.sites)
        self.prediction = backbone.prediction
        self.density = config.density or backbone.density
        self.prediction.check_weighting(config.weighting)
        self._no_text = backbone.no_text() if no_text is None else no_text
        self.injection = Injection(self.denoiser, backbone.sites) if adapter is not None else None
        if adapter is not None:
            adapter.train().requires_grad_(True)
            adapter.train_source(config.train_source)
        if config.gradient_checkpointing:
            _enable_gradient_checkpointing(self.denoiser)
        if config.compile:
            self.denoiser._repeated_blocks = list(backbone.blocks)  # diffusers names none for PixArt
            self.denoiser.compile_repeated_blocks()

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = self.adapter.parameter_groups() if self.adapter is not None else {}
        if self.adapter is None:
            groups = {"denoiser": list(self.denoiser.parameters())}
        trained = {name: [p for p in group if p.requires_grad] for name, group in groups.items()}
        rates = self.config.rates
        return [{"name": name, "params": group, "lr": getattr(rates, name)} for name, group in trained.items() if group]

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of a batch.

        Args:
            batch: `latents` [batch, channels, height, width]; `text.NAME` as the backbone encodes text; with an
                adapter, `embeds` [batch, *embed_shape]; where images were resized or cropped, their `SizeConditions`.
        """
        latents = batch["latents"].float()
        without_image, without_text = self._draw_dropout(latents)
        noise = torch.randn_like(latents)
        mu = self._backbone.shift_mu(latents)
        timesteps = self.prediction.sample_timesteps(len(latents), latents.device, self.density, mu)
        noisy = self.prediction.add_noise(latents, noise, timesteps)
        if self.injection is not None and self.adapter is not None:
            self.set_condition(self.injection, self.adapter, batch, without_image)
        predicted = self._predict(noisy, timesteps, self._text(batch, without_text), SizeConditions.of_batch(batch))
        target = self.prediction.target(latents, noise, timesteps)
        losses = (predicted.float() - target).square().flatten(1).mean(1)
        return self.prediction.weigh(losses, timesteps, self.config.weighting, self.config.gamma).mean()

    def set_condition(
        self, injection: Injection, adapter: ImagePromptAdapter, batch: Batch, without_image: Tensor
    ) -> None:
        """Injects the features of a batch's references, and those of "no image" in the rows `without_image`."""
        embeds = batch["embeds"].float()
        injection.set(adapter(drop_images(adapter, embeds, without_image, self._no_image)))

    def _draw_dropout(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Which samples lose their image, and which their text: boolean, [batch]."""
        draw = torch.rand(len(latents), device=latents.device)
        drop = self.config.dropping
        without_image = draw < drop.image + drop.both
        without_text = (draw >= drop.image) & (draw < drop.image + drop.both + drop.text)
        return without_image, without_text

    def _predict(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions | None) -> Tensor:
        """The denoiser's prediction, in its own precision.

        A frozen denoiser in 16 bits runs as it does in use; autocast would only make 32-bit copies for its norms.
        """
        dtype, device = self.denoiser.dtype, noisy.device
        disable = dtype != torch.float32 and torch.amp.is_autocast_available(device.type)
        with torch.autocast(device.type, enabled=False) if disable else nullcontext():
            return self._backbone.predict(noisy.to(dtype), timesteps, text, sizes)

    def _text(self, batch: Batch, without: Tensor) -> Text:
        """The batch's text states, replaced by those of the empty prompt where `without`."""
        text = {name.removeprefix("text."): t for name, t in batch.items() if name.startswith("text.")}
        for name, t in text.items():
            empty = self._no_text[name].to(t.device, t.dtype)
            text[name] = torch.where(_as_mask(without, t), empty, t)
        return text

    def detach(self) -> None:
        """Removes the injection from the denoiser."""
        if self.injection is not None:
            self.injection.detach()

    @contextmanager
    def detached(self) -> Iterator[None]:
        """The denoiser without the injection, so that evaluation can attach its own; training goes on afterwards."""
        self.detach()
        try:
            yield
        finally:
            if self.adapter is not None:
                self.injection = Injection(self.denoiser, self._backbone.sites)
                self.adapter.train()


def _enable_gradient_checkpointing(denoiser: Any) -> None:
    if not denoiser._supports_gradient_checkpointing:
        raise InputError(
            f"objective.gradient_checkpointing is true, but diffusers' {type(denoiser).__name__} cannot recompute its "
            f"blocks; set it to false, and a smaller training.batch_size where memory is short."
        )
    denoiser.enable_gradient_checkpointing()


def drop_images(adapter: ImagePromptAdapter, embeds: Tensor, without_image: Tensor, no_image: Tensor | None) -> Tensor:
    """Embeddings [batch, ...], replaced by the adapter's of "no image" in the rows `without_image`."""
    return torch.where(_as_mask(without_image, embeds), adapter.unconditional(embeds, no_image), embeds)


def _as_mask(rows: Tensor, like: Tensor) -> Tensor:
    """[batch] as [batch, 1, ...], with as many dimensions as `like`."""
    return rows.view(-1, *[1] * (like.ndim - 1))
