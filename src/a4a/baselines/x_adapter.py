"""X-Adapter (CVPR 2024): the base model's decoder, seen by the upgraded model's through a trained mapper.

Built from the paper's description. Ours: any two U-Nets, any batch, any scheduler; the base model's second pass goes
first as a whole, since nothing in it depends on the upgraded model, so that both are diffusers' own image-to-image
pipelines, at the same time steps. Until the image is done, three feature maps of each step are kept: for SD1.5 in half
precision, 21 MB a step and image with guidance.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoPipelineForImage2Image, ConfigMixin, DiffusionPipeline, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Generator, Tensor, nn

from a4a.backbones import denoiser_of
from a4a.baselines.base import TwoModelMethod, TwoModelPipeline, call_of, removing
from a4a.errors import InputError, first_line
from a4a.evaluation.generation import generate_images
from a4a.evaluation.methods import Cost, load_for_inference
from a4a.evaluation.tasks.base import Task
from a4a.injection import Scale
from a4a.pipeline import ImagePrompt, ImagePromptPipeline
from a4a.utils.hub import resolve_zoo

Size = Sequence[int]
"""Height and width of a feature map."""


class XAdapter(ModelMixin, ConfigMixin):
    """The mapper: from the base model's last three up blocks to the upgraded model's middle and first two up blocks.

    Args:
        inputs: channels of the base model's three maps.
        outputs: channels of the upgraded model's three maps.
        doublings: how often each map's side doubles on the way; negative where it halves.
    """

    @register_to_config
    def __init__(self, inputs: list[int], outputs: list[int], doublings: list[int]):
        super().__init__()
        self.branches = nn.ModuleList(Branch(*sizes) for sizes in zip(inputs, outputs, doublings, strict=True))

    @classmethod
    def between(cls, base: nn.Module, upgraded: nn.Module) -> "XAdapter":
        """An untrained mapper for two U-Nets at the sizes that they are configured for. It begins by adding nothing."""
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
        """What is added to the three maps of the upgraded model, which have these sizes."""
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
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self, feature: Float[Tensor, "batch inputs h w"], size: Size
    ) -> Float[Tensor, "batch outputs height width"]:
        hidden = feature.to(self.out.weight)
        for left, layer in zip(reversed(range(len(self.resize))), self.resize, strict=True):
            if isinstance(layer, nn.ConvTranspose2d):  # to a side of 2 n or 2 n - 1, whichever comes nearer
                hidden = layer(
                    hidden,
                    [min(max(s // 2**left, 2 * n - 1), 2 * n) for s, n in zip(size, hidden.shape[-2:], strict=True)],
                )
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
class Step:
    """One call of the base model's denoiser."""

    timestep: Tensor
    features: tuple[Tensor, ...]
    """Outputs of its last three up blocks."""


@contextmanager
def recorded(base: Any) -> Iterator[list[Step]]:
    """Every call of the base model's U-Net in this context."""
    steps: list[Step] = []
    now: list[Tensor] = []

    def close(unet: nn.Module, args: tuple, kwargs: dict[str, Any], _: Any) -> None:
        steps.append(Step(torch.as_tensor(call_of(unet, args, kwargs)[1]), tuple(now)))
        now.clear()

    blocks = [block.register_forward_hook(lambda *call: now.append(call[-1])) for block in base.up_blocks[-3:]]
    with removing(*blocks, base.register_forward_hook(close, with_kwargs=True)):
        yield steps


@contextmanager
def added(upgraded: Any, mapper: XAdapter, steps: Sequence[Step], scale: float = 1.0) -> Iterator[None]:
    """Add the mapped features to the upgraded model's calls in this context, one call a step.

    `sample += scale * residual` after the middle block and the first two up blocks.
    """
    coming = iter(steps)
    now: list[Step] = []

    def begin(unet: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        latents, timestep = call_of(unet, args, kwargs)
        step = next(coming, None)
        theirs = None if step is None else step.timestep.tolist()
        if step is None or theirs != torch.as_tensor(timestep).tolist():
            raise InputError(
                f"The upgraded model is at time step {timestep} and the base model at {theirs}; "
                "use a scheduler whose steps do not depend on the model."
            )
        if len(latents) != (rows := len(step.features[0])):
            raise InputError(
                f"The upgraded model runs on {len(latents)} rows and the base model on {rows}; "
                "give both the same guidance."
            )
        now[:] = [step]

    def adding(number: int) -> Any:
        branch = mapper.branches[number]
        return lambda _, __, output: output + scale * branch(now[0].features[number], output.shape[-2:]).to(output)

    blocks = (upgraded.mid_block, upgraded.up_blocks[0], upgraded.up_blocks[1])
    hooks = [block.register_forward_hook(adding(i)) for i, block in enumerate(blocks)]
    with removing(*hooks, upgraded.register_forward_pre_hook(begin, with_kwargs=True)):
        yield


SHARED = ("negative_prompt", "guidance_scale", "num_images_per_prompt", "generator", "eta")
"""Options of a call that both models take."""


class XAdapterPipeline(TwoModelPipeline):
    """In two stages: the base model generates an image, and the upgraded model generates it again from that image.

    In the second stage the base model's features are added to the upgraded model's.

    Raises InputError where the mapper is for two other models.
    """

    def __init__(self, base: ImagePromptPipeline, pipe: DiffusionPipeline, mapper: XAdapter):
        mapper.check(base.backbone.denoiser, denoiser_of(pipe))
        super().__init__(base, pipe)
        self.mapper = mapper.eval().to(self.backbone.device)  # pyright: ignore[reportArgumentType]

    def base_calls(self, steps: int, start: float = 0.8) -> int:
        return steps + int(steps * start)

    @property
    def parameters(self) -> int:
        return self._added_parameters(*self.base.pipe.components.values(), self.base.adapter, self.mapper)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        image_prompt: ImagePrompt | None = None,
        image_prompt_embeds: Tensor | None = None,
        image_prompt_scale: Scale = 1.0,
        start: float = 0.8,
        mapper_scale: float = 1.0,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """With one reference for all prompts, or one a prompt; all else as in the upgraded image-to-image pipeline.

        `start` is the share of the denoising steps that the second stage does, in (0, 1]: at 1 it begins from noise.
        """
        if prompt is None:
            raise InputError(
                "A prompt is missing; give prompt=, in words, since each of the two models encodes it in its own way."
            )
        if not 0 < start <= 1 or int(num_inference_steps * start) < 1:
            raise InputError(
                f"start is {start:g} of {num_inference_steps} steps; "
                "expected at least one step, and at most all: start in (0, 1]."
            )
        prompt = prompt if isinstance(prompt, str) else list(prompt)
        height, width = height or side(self.pipe), width or side(self.pipe)
        steps: dict[str, Any] = {"num_inference_steps": num_inference_steps}
        call = steps | {name: kwargs[name] for name in SHARED if name in kwargs}
        call |= {
            "image_prompt_embeds": self.base.reference_embeds(image_prompt, image_prompt_embeds),
            "image_prompt_scale": image_prompt_scale,
        }

        pictures = self.base(prompt, **call, **self._base_size(height, width), output_type="pt").images
        again = ImagePromptPipeline(
            image_to_image(self.base.pipe, self._base_scheduler()), self.base.adapter, self.base.image_encoder
        )
        with recorded(again.backbone.denoiser) as features:
            again(prompt, **call, image=pictures, strength=start, output_type="latent")
        with added(self.backbone.denoiser, self.mapper, features, mapper_scale):
            return image_to_image(self.pipe)(
                prompt=prompt, image=resized(pictures, height, width), strength=start, **steps, **kwargs
            )

    def _base_size(self, height: int, width: int) -> dict[str, Any]:
        """The same share of the base model's own size, in pixels that its VAE can take."""
        pipe: Any = self.base.pipe
        ratio, factor = side(pipe) / side(self.pipe), pipe.vae_scale_factor
        return {"height": round(height * ratio / factor) * factor, "width": round(width * ratio / factor) * factor}

    def _base_scheduler(self) -> Any:
        """The upgraded model's kind of scheduler, with the noise schedule that the base model was trained with."""
        pipes: tuple[Any, Any] = self.pipe, self.base.pipe
        mine, theirs = (pipe.scheduler for pipe in pipes)
        noise = (
            "beta_start",
            "beta_end",
            "beta_schedule",
            "trained_betas",
            "prediction_type",
            "rescale_betas_zero_snr",
        )
        return type(mine).from_config(
            {**mine.config, **{n: theirs.config[n] for n in noise if n in theirs.config and n in mine.config}}
        )


def image_to_image(pipe: Any, scheduler: Any = None) -> Any:
    """diffusers' image-to-image pipeline from the parts of a text-to-image pipeline."""
    other = AutoPipelineForImage2Image.from_pipe(
        pipe, scheduler=scheduler or pipe.scheduler, add_watermarker=getattr(pipe, "watermark", None) is not None
    )
    other.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return other


def side(pipe: Any) -> int:
    """Height and width in pixels that a model is configured for."""
    return int(denoiser_of(pipe).config.sample_size * pipe.vae_scale_factor)


def resized(pictures: Float[Tensor, "batch 3 h w"], height: int, width: int) -> Float[Tensor, "batch 3 height width"]:
    if pictures.shape[-2:] == (height, width):
        return pictures
    return F.interpolate(pictures, (height, width), mode="bilinear", antialias=True)


def _fit(base: nn.Module, upgraded: nn.Module) -> dict[str, list[int]]:
    """What a mapper between two U-Nets is: widths and sides of the maps that it joins, from their configurations."""
    (_, *decoder), (middle, *others) = _maps(base, "base", 3), _maps(upgraded, "upgraded", 2)
    pairs = list(zip(decoder[-3:], [middle, *others[:2]], strict=True))
    doublings = [log2(other / one) for (_, one), (_, other) in pairs]
    if any(d % 1 for d in doublings):
        raise InputError(
            f"X-Adapter doubles or halves feature maps but the base model's last three have sides "
            f"{[s for _, s in decoder[-3:]]} and the upgraded model's {[s for _, (_, s) in pairs]}; "
            "choose two models whose sample_size differs by a power of two."
        )
    return {
        "inputs": [w for (w, _), _ in pairs],
        "outputs": [w for _, (w, _) in pairs],
        "doublings": [int(d) for d in doublings],
    }


def _maps(unet: nn.Module, which: str, least: int) -> list[tuple[int, float]]:
    """Width and side of what the middle block and each up block give."""
    if not isinstance(unet, UNet2DConditionModel):
        raise InputError(
            f"X-Adapter is for U-Nets only but the denoiser of the {which} model is {type(unet).__name__}; "
            "choose a U-Net, or a4a transfer."
        )
    config: Any = unet.config
    widths, last = list(config.block_out_channels), len(config.block_out_channels) - 1
    if last + 1 < least:
        raise InputError(
            f"X-Adapter needs {least} up blocks in the {which} model but its U-Net has {last + 1}; "
            "choose another model."
        )
    halvings = [last, *(max(last - 1 - i, 0) for i in range(last + 1))]
    return [
        (width, config.sample_size / 2**halved)
        for width, halved in zip([widths[-1], *widths[::-1]], halvings, strict=True)
    ]


def _sides(size: Size) -> str:
    return " x ".join(str(s) for s in size)


def load_mapper(folder: str) -> XAdapter:
    try:
        return XAdapter.from_pretrained(resolve_zoo(folder), low_cpu_mem_usage=False)  # pyright: ignore[reportReturnType]
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise InputError(
            f"{folder!r} is no trained X-Adapter ({first_line(error)}); make one with a4a x-adapter."
        ) from error


@dataclass
class XAdapterMethod(TwoModelMethod):
    """X-Adapter: the base model's decoder steers the upgraded U-Net through a trained mapper."""

    trained = ("adapter", "mapper")

    mapper: str = ""
    """Folder of the trained mapper."""
    start: float = 0.8
    """Share of the steps that the second stage does."""

    @cached_property
    def pipe(self) -> XAdapterPipeline:
        return XAdapterPipeline(self.with_adapter(), load_for_inference(self.model), load_mapper(self.mapper))

    def generate(self, task: Task, indices: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return generate_images(self.pipe, task, indices, noise, self.sampling, self.scale, start=self.start)

    def cost(self) -> Cost:
        return Cost(self.pipe.parameters, self.pipe.base_calls(self.steps(self.pipe.pipe), self.start))
