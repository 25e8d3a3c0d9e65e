"""What a denoiser predicts, and how it is trained: time steps, noising, target and loss weights.

Noisy latents are `x = alpha x0 + sigma eps`, with clean latents x0 and Gaussian noise eps. Every kind of prediction is
a mixture `a x0 + b eps` of the same two:

    noise     eps
    velocity  alpha eps - sigma x0
    sample    x0                     (all three: diffusion, alpha^2 + sigma^2 = 1)
    flow      eps - x0               (alpha + sigma = 1)

`prediction_for` chooses the kind by the configuration of a pipeline's scheduler; no other code asks for the kind.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import (
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
    compute_snr,
)
from torch import Tensor

from a4a.errors import InputError

Density = Literal["uniform", "logit_normal", "mode"]
Weighting = Literal["none", "min_snr", "sigma_sqrt", "cosmap"]


@dataclass(frozen=True)
class TimestepDensity:
    """How time steps are drawn in training: uniform, or by the densities of SD3 (arXiv 2403.03206, sec. 3.1)."""

    kind: Density = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29

    def sample(self, count: int, device: torch.device | str) -> Tensor:
        """Shares of noise [count] in [0, 1], where 1 is all noise."""
        return compute_density_for_timestep_sampling(
            self.kind, count, self.logit_mean, self.logit_std, self.mode_scale, device
        )


class Prediction(ABC):
    """One kind of prediction, on the noise schedule of one scheduler.

    Time steps are tensors [batch], as the denoiser takes them; latents, noise and predictions are [batch, channels,
    height, width].
    """

    weightings: ClassVar[tuple[Weighting, ...]]
    """Loss weights that this kind of prediction has."""
    num_train_timesteps: int

    @abstractmethod
    def sample_timesteps(
        self, count: int, device: torch.device | str, density: TimestepDensity, mu: float | None = None
    ) -> Tensor:
        """Time steps [count] for training, from torch's global generator.

        `mu` is the shift by the image's size (`Backbone.shift_mu`), for schedulers with `use_dynamic_shifting`.
        """

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents x = alpha x0 + sigma eps."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser is trained to predict."""

    @abstractmethod
    def weigh(self, losses: Tensor, timesteps: Tensor, weighting: Weighting, gamma: float) -> Tensor:
        """Losses [batch] times the weights of their time steps; `gamma` is min-SNR's. `check_weighting` comes first."""

    def check_weighting(self, weighting: str) -> None:
        """InputError where this kind of prediction has no such loss weights."""
        if weighting not in self.weightings:
            raise InputError(
                f"objective.weighting is {weighting!r}, which this model's {type(self).__name__} does not have; "
                f"set it to one of {', '.join(self.weightings)}."
            )

    # --- between kinds -----------------------------------------------------------------------------------------------

    @abstractmethod
    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma [batch]."""

    @abstractmethod
    def levels_at(self, log_snr: float) -> tuple[float, float]:
        """alpha and sigma where log(alpha^2 / sigma^2) is `log_snr`."""

    @abstractmethod
    def log_snr(self, timestep: Tensor) -> float:
        """log(alpha^2 / sigma^2) at one time step."""

    @abstractmethod
    def matching_timestep(self, other: "Prediction", timestep: Tensor) -> Tensor:
        """The time step of this schedule with the signal-to-noise ratio that `other` has at its own `timestep`."""

    @staticmethod
    @abstractmethod
    def mixture(alpha: Any, sigma: Any) -> tuple[Any, Any]:
        """a and b of the prediction a x0 + b eps."""

    def clean_latents(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """x0 by a prediction [batch, channels, height, width] of noisy latents x at time steps [batch]."""
        alpha, sigma = (level.reshape(-1, 1, 1, 1).to(noisy) for level in self.levels(timesteps))
        a, b = self.mixture(alpha, sigma)
        return (b * noisy - sigma * prediction) / (alpha * b - sigma * a)

    def noise_per_prediction(self, log_snr: float) -> float:
        """By how much eps changes where the prediction changes by one, at the same noisy latents."""
        alpha, sigma = self.levels_at(log_snr)
        a, b = self.mixture(alpha, sigma)
        return alpha / (alpha * b - sigma * a)

    def norm(self, log_snr: float) -> float:
        """Standard deviation of noisy latents whose x0 has standard deviation one."""
        return math.hypot(*self.levels_at(log_snr))


class DiffusionPrediction(Prediction):
    """Variance-preserving diffusion with whole-numbered time steps, noised as by DDPMScheduler."""

    weightings = ("none", "min_snr")

    def __init__(self, config: Any):
        self.scheduler: Any = DDPMScheduler.from_config(config)
        self.num_train_timesteps = self.scheduler.config.num_train_timesteps

    def sample_timesteps(
        self, count: int, device: torch.device | str, density: TimestepDensity, mu: float | None = None
    ) -> Tensor:
        if density.kind == "uniform":
            return torch.randint(0, self.num_train_timesteps, (count,), device=device)
        steps = (density.sample(count, device) * self.num_train_timesteps).long()
        return steps.clamp(0, self.num_train_timesteps - 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.scheduler.add_noise(latents, noise, timesteps)

    def weigh(self, losses: Tensor, timesteps: Tensor, weighting: Weighting, gamma: float) -> Tensor:
        """None, or min-SNR (arXiv 2303.09556): min(SNR, gamma) as a weight of the sample's loss."""
        if weighting == "none":
            return losses
        snr = compute_snr(self.scheduler, timesteps)
        return losses * snr.clamp(max=gamma) / self.loss_per_sample_loss(snr)

    @staticmethod
    @abstractmethod
    def loss_per_sample_loss(snr: Tensor) -> Tensor:
        """Squared error of this prediction, divided by the squared error of the sample x0 that follows from it."""

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        signal = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        return signal.sqrt(), (1 - signal).sqrt()

    def levels_at(self, log_snr: float) -> tuple[float, float]:
        return _sigmoid(log_snr) ** 0.5, _sigmoid(-log_snr) ** 0.5

    @property
    def _log_snrs(self) -> Tensor:
        return self.scheduler.alphas_cumprod.logit(1e-6)

    def log_snr(self, timestep: Tensor) -> float:
        return float(self._log_snrs[int(timestep.round())])

    def matching_timestep(self, other: Prediction, timestep: Tensor) -> Tensor:
        """The nearest time step; the very same one where both schedules are the same."""
        same = isinstance(other, DiffusionPrediction)
        if same and torch.equal(self.scheduler.alphas_cumprod, other.scheduler.alphas_cumprod):
            return timestep
        return (self._log_snrs - other.log_snr(timestep)).abs().argmin()


class NoisePrediction(DiffusionPrediction):
    """`epsilon`: the noise itself."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise

    @staticmethod
    def loss_per_sample_loss(snr: Tensor) -> Tensor:
        return snr

    @staticmethod
    def mixture(alpha: Any, sigma: Any) -> tuple[Any, Any]:
        return 0.0, 1.0


class VelocityPrediction(DiffusionPrediction):
    """`v_prediction`: alpha eps - sigma x0 (arXiv 2202.00512)."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.scheduler.get_velocity(latents, noise, timesteps)

    @staticmethod
    def loss_per_sample_loss(snr: Tensor) -> Tensor:
        return snr + 1

    @staticmethod
    def mixture(alpha: Any, sigma: Any) -> tuple[Any, Any]:
        return -sigma, alpha


class SamplePrediction(DiffusionPrediction):
    """`sample`: the clean latents."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return latents

    @staticmethod
    def loss_per_sample_loss(snr: Tensor) -> Tensor:
        return torch.ones_like(snr)

    @staticmethod
    def mixture(alpha: Any, sigma: Any) -> tuple[Any, Any]:
        return 1.0, 0.0


class FlowPrediction(Prediction):
    """Flow matching: x = (1 - sigma) x0 + sigma eps, prediction eps - x0, time step sigma * num_train_timesteps.

    Time steps are real numbers. The shares of noise that a density gives are shifted as the scheduler shifts its own,
    sigma = shift s / (1 + (shift - 1) s). With `use_dynamic_shifting`, the shift is exp(mu), or mu where the
    scheduler's `time_shift_type` is linear, and mu depends on the image's size.
    """

    weightings = ("none", "sigma_sqrt", "cosmap")

    def __init__(self, config: Any):
        self.num_train_timesteps = config["num_train_timesteps"]
        shift = config.get("shift", config.get("flow_shift"))
        self.shift = 1.0 if shift is None else float(shift)
        self.dynamic = bool(config.get("use_dynamic_shifting"))
        self.exponential = config.get("time_shift_type", "exponential") == "exponential"

    def sample_timesteps(
        self, count: int, device: torch.device | str, density: TimestepDensity, mu: float | None = None
    ) -> Tensor:
        share = density.sample(count, device).clamp(1 / self.num_train_timesteps, 1)  # as the scheduler's own table
        shift = self._shift(mu)
        return self.num_train_timesteps * shift * share / (1 + (shift - 1) * share)

    def _shift(self, mu: float | None) -> float:
        if not self.dynamic:
            return self.shift
        if mu is None:
            raise ValueError("The scheduler shifts time steps by the image's size (use_dynamic_shifting); give mu.")
        return math.exp(mu) if self.exponential else mu

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha, sigma = (_column(level, latents) for level in self.levels(timesteps))
        return alpha * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - latents

    def weigh(self, losses: Tensor, timesteps: Tensor, weighting: Weighting, gamma: float) -> Tensor:
        """None, or SD3's `sigma_sqrt` (1 / sigma^2) and `cosmap` (arXiv 2403.03206, sec. 3.1)."""
        return losses * compute_loss_weighting_for_sd3(weighting, self.levels(timesteps)[1])

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        sigma = timesteps / self.num_train_timesteps
        return 1 - sigma, sigma

    def levels_at(self, log_snr: float) -> tuple[float, float]:
        return _sigmoid(log_snr / 2), _sigmoid(-log_snr / 2)

    def log_snr(self, timestep: Tensor) -> float:
        return 2 * float(self.levels(timestep.float())[0].logit(1e-6))

    def matching_timestep(self, other: Prediction, timestep: Tensor) -> Tensor:
        if isinstance(other, FlowPrediction) and other.num_train_timesteps == self.num_train_timesteps:
            return timestep
        return torch.as_tensor(self.num_train_timesteps * self.levels_at(other.log_snr(timestep))[1])

    @staticmethod
    def mixture(alpha: Any, sigma: Any) -> tuple[Any, Any]:
        return -1.0, 1.0


KINDS: dict[str, type[DiffusionPrediction] | type[FlowPrediction]] = {
    "epsilon": NoisePrediction,
    "v_prediction": VelocityPrediction,
    "sample": SamplePrediction,
    "flow_prediction": FlowPrediction,
}
"""By diffusers' `prediction_type`; the FlowMatch schedulers, which have none, predict flow."""


def prediction_for(scheduler: Any) -> Prediction:
    """What a denoiser with this scheduler predicts; InputError for a kind that is not known."""
    flow = "flow_prediction" if type(scheduler).__name__.startswith("FlowMatch") else None
    kind = scheduler.config.get("prediction_type", flow)
    if kind not in KINDS:
        raise InputError(
            f"The scheduler {type(scheduler).__name__} predicts {kind!r}; expected one of {', '.join(KINDS)}."
        )
    return KINDS[kind](scheduler.config)


def split_variance(output: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """A denoiser's output, as its prediction and its learned variance, which follows in channels of its own.

    The variance has no channels for most models; PixArt has as many as latents. Training leaves it alone.
    """
    return output[:, :channels], output[:, channels:]


def _column(level: Tensor, like: Tensor) -> Tensor:
    """[batch] as [batch, 1, ...], to multiply `like` with."""
    return level.to(like).view(-1, *[1] * (like.ndim - 1))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
