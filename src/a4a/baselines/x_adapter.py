"""X-Adapter (CVPR 2024): a trained mapper from the base model's decoder to the upgraded model's.

Built from the paper's description; for any two U-Nets (ours). Here is the mapper, and how its residuals enter the
upgraded U-Net; `x_adapter_pipeline` has the two stages of generation, `x_adapter_training` the mapper's training.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from a4a.baselines.base import latents_and_timestep, removing
from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_zoo

Size = Sequence[int]
"""Height and width of a feature map."""


class XAdapter(ModelMixin, ConfigMixin):
    """The mapper: from the base model's last three up blocks to the upgraded model's middle and first two up blocks.

    Args:
        inputs: channels of the base model's three feature maps.
        outputs: channels of the upgraded model's three feature maps.
        doublings: how many times each map's side is doubled; negative where it is halved.
    """

    @register_to_config
    def __init__(self, inputs: list[int], outputs: list[int], doublings: list[int]):
        super().__init__()
        self.branches = nn.ModuleList(Branch(*sizes) for sizes in zip(inputs, outputs, doublings, strict=True))

    @classmethod
    def between(cls, base: nn.Module, upgraded: nn.Module) -> "XAdapter":
        """An untrained mapper for two U-Nets at the sizes that they are configured for. At first it adds nothing."""
        return cls(**_fit(base, upgraded))

    def check(self, base: nn.Module, upgraded: nn.Module) -> None:
        """InputError where the mapper was made for two other U-Nets."""
        for name, expected in _fit(base, upgraded).items():
            if (found := list(self.config[name])) != expected:
                raise InputError(
                    f"The X-Adapter is for other models: its {name} are {found} but these two need {expected}; "
                    "train one for them (a4a x-adapter)."
                )

    def forward(self, features: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """The residuals that are added to the upgraded model's three feature maps, which have these sizes.

        `features` are [batch, inputs[i], h, w]; the residuals are [batch, outputs[i], *sizes[i]].
        """
        return [branch(feature, size) for branch, feature, size in zip(self.branches, features, sizes, strict=True)]


class Branch(nn.Module):
    """Maps one feature map to another's size and width: strided convolutions, three ResNet blocks, a 1x1 convolution.

    The last convolution starts at zero, so that an untrained mapper adds nothing.
    """

    def __init__(self, inputs: int, outputs: int, doublings: int):
        super().__init__()
        convolution = nn.ConvTranspose2d if doublings > 0 else nn.Conv2d
        self.resize = nn.ModuleList(convolution(inputs, inputs, 3, stride=2, padding=1) for _ in range(abs(doublings)))
        self.blocks = nn.Sequential(
            ResNetBlock(inputs, outputs), ResNetBlock(outputs, outputs), ResNetBlock(outputs, outputs)
        )
        self.out = nn.Conv2d(outputs, outputs, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, feature: Float[Tensor, "batch inputs h w"], size: Size
    ) -> Float[Tensor, "batch outputs height width"]:
        hidden = feature.to(self.out.weight)
        for doublings_left, layer in zip(reversed(range(len(self.resize))), self.resize, strict=True):
            if isinstance(layer, nn.ConvTranspose2d):
                hidden = layer(hidden, _doubled(hidden.shape[-2:], [side // 2**doublings_left for side in size]))
            else:
                hidden = layer(hidden)
        if hidden.shape[-2:] != torch.Size(size):
            raise InputError(
                f"The base model's map of {_sides(feature.shape[-2:])} becomes {_sides(hidden.shape[-2:])} but the "
                f"upgraded model has {_sides(size)} there; give height and width that both models halve as often as "
                "they do at their own sizes."
            )
        return self.out(self.blocks(hidden))


class ResNetBlock(nn.Module):
    """`x + conv(relu(conv(x)))`, without normalisation or time; a 3x3 convolution first where the width changes."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.enter = nn.Conv2d(inputs, outputs, 3, padding=1) if inputs != outputs else nn.Identity()
        self.first, self.second = (nn.Conv2d(outputs, outputs, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h w"]:
        x = self.enter(x)
        return x + self.second(F.relu(self.first(x)))


@dataclass(frozen=True)
class BaseStep:
    """One call of the base model's denoiser."""

    timestep: Tensor
    features: tuple[Tensor, ...]
    """Outputs of its last three up blocks."""


class _Recorder:
    """Forward hooks of the base model's U-Net that keep the outputs of its blocks, call by call."""

    def __init__(self) -> None:
        self.steps: list[BaseStep] = []
        self._features: list[Tensor] = []

    def keep_output(self, _block: nn.Module, _args: tuple, output: Tensor) -> None:
        self._features.append(output)

    def end_step(self, unet: nn.Module, args: tuple, kwargs: dict[str, Any], _output: Any) -> None:
        _, timestep = latents_and_timestep(unet, args, kwargs)
        self.steps.append(BaseStep(torch.as_tensor(timestep), tuple(self._features)))
        self._features.clear()


@contextmanager
def record_features(base: Any) -> Iterator[list[BaseStep]]:
    """Record every call of the base model's U-Net in this context."""
    recorder = _Recorder()
    hooks = [block.register_forward_hook(recorder.keep_output) for block in base.up_blocks[-3:]]
    with removing(*hooks, base.register_forward_hook(recorder.end_step, with_kwargs=True)):
        yield recorder.steps


class _ResidualAdder:
    """Forward hooks of the upgraded model's U-Net that add mapped features to the outputs of its blocks."""

    def __init__(self, mapper: XAdapter, steps: Sequence[BaseStep], scale: float):
        self._mapper, self._scale = mapper, scale
        self._steps = iter(steps)
        self._features: tuple[Tensor, ...] = ()

    def begin_step(self, unet: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Take the base model's next step; InputError where it does not fit this call of the upgraded model."""
        latents, timestep = latents_and_timestep(unet, args, kwargs)
        step = next(self._steps, None)
        base_timestep = None if step is None else step.timestep.tolist()
        if step is None or base_timestep != torch.as_tensor(timestep).tolist():
            raise InputError(
                f"The upgraded model is at time step {timestep} and the base model at {base_timestep}; "
                "use a scheduler whose steps do not depend on the model."
            )
        if len(latents) != (rows := len(step.features[0])):
            raise InputError(
                f"The upgraded model runs on {len(latents)} rows and the base model on {rows}; "
                "give both the same guidance."
            )
        self._features = step.features

    def add(self, number: int, _block: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        """`output + scale * residual`, for the upgraded model's block of this number."""
        residual = self._mapper.branches[number](self._features[number], output.shape[-2:])
        return output + self._scale * residual.to(output)


@contextmanager
def add_residuals(upgraded: Any, mapper: XAdapter, steps: Sequence[BaseStep], scale: float = 1.0) -> Iterator[None]:
    """Add the mapped features to the upgraded U-Net's calls in this context: one recorded step for each call.

    They are added after the middle block and the first two up blocks. Raises InputError, in the call, where the two
    models are not at the same time step or have different batches.
    """
    adder = _ResidualAdder(mapper, steps, scale)
    blocks = (upgraded.mid_block, upgraded.up_blocks[0], upgraded.up_blocks[1])
    hooks = [block.register_forward_hook(partial(adder.add, i)) for i, block in enumerate(blocks)]
    with removing(*hooks, upgraded.register_forward_pre_hook(adder.begin_step, with_kwargs=True)):
        yield


def _fit(base: nn.Module, upgraded: nn.Module) -> dict[str, list[int]]:
    """The arguments of a mapper between two U-Nets: widths and sides of feature maps, from their configurations."""
    (_, *base_maps), upgraded_maps = _maps(base, "base", 3), _maps(upgraded, "upgraded", 2)
    pairs = list(zip(base_maps[-3:], upgraded_maps[:3], strict=True))
    doublings = [log2(upgraded_side / base_side) for (_, base_side), (_, upgraded_side) in pairs]
    if any(d % 1 for d in doublings):
        raise InputError(
            f"X-Adapter doubles or halves feature maps but the base model's last three have sides "
            f"{[s for _, s in base_maps[-3:]]} and the upgraded model's {[s for _, (_, s) in pairs]}; "
            "choose two models whose sample_size differs by a power of two."
        )
    return {
        "inputs": [w for (w, _), _ in pairs],
        "outputs": [w for _, (w, _) in pairs],
        "doublings": [int(d) for d in doublings],
    }


def _maps(unet: nn.Module, which: str, least: int) -> list[tuple[int, float]]:
    """Width and side of the outputs of the middle block and of each up block.

    Raises InputError for a denoiser that is no U-Net, or one with fewer than `least` up blocks.
    """
    if not isinstance(unet, UNet2DConditionModel):
        raise InputError(
            f"X-Adapter is for U-Nets only but the denoiser of the {which} model is {type(unet).__name__}; "
            "choose a U-Net, or a4a transfer."
        )
    config: Any = unet.config
    widths = list(config.block_out_channels)
    levels = len(widths)
    if levels < least:
        raise InputError(
            f"X-Adapter needs {least} up blocks in the {which} model but its U-Net has {levels}; choose another model."
        )
    halvings = [levels - 1, *(max(levels - 2 - i, 0) for i in range(levels))]
    sides = [config.sample_size / 2**count for count in halvings]
    return list(zip([widths[-1], *widths[::-1]], sides, strict=True))


def _doubled(size: Size, target: Size) -> list[int]:
    """Twice a feature map's size: each side n becomes 2 n or 2 n - 1, whichever is nearer to the target."""
    return [min(max(goal, 2 * n - 1), 2 * n) for n, goal in zip(size, target, strict=True)]


def _sides(size: Size) -> str:
    return " x ".join(str(s) for s in size)


def load_mapper(folder: str) -> XAdapter:
    """A trained mapper from its folder or zoo:NAME; InputError where there is none."""
    try:
        mapper: Any = XAdapter.from_pretrained(resolve_zoo(folder), low_cpu_mem_usage=False)
        return mapper
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise InputError(
            f"{folder!r} is no trained X-Adapter ({first_line(error)}); make one with a4a x-adapter."
        ) from error
