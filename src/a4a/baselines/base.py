"""What both baselines share: a base model with an image prompt, and the upgraded model that it steers."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.pipelines.pag.pag_utils import PAGMixin
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from a4a.backbones import Backbone, backbone_for
from a4a.errors import InputError
from a4a.evaluation.generation import Sampling
from a4a.evaluation.methods import ImagePromptMethod, Method
from a4a.pipeline import ImagePromptPipeline, References
from a4a.pipeline.guidance import check_guidance


class TwoModelPipeline(ABC):
    """Called as an `ImagePromptPipeline`, with all other arguments of the upgraded model's pipeline.

    Args:
        base: the base model's pipeline with the adapter that was made for it.
        pipe: the upgraded model's pipeline.

    Raises InputError where `pipe` uses another guidance than classifier-free guidance, and where the two models have
    different numbers of training time steps.
    """

    def __init__(self, base: ImagePromptPipeline, pipe: DiffusionPipeline):
        check_guidance(pipe)
        if isinstance(pipe, PAGMixin):
            raise InputError(
                f"{type(pipe).__name__} perturbs the attention of the upgraded model alone; "
                "give that model's plain pipeline."
            )
        self.base, self.backbone = base, backbone_for(pipe)
        self.pipe: Any = pipe  # DiffusionPipeline itself declares no __call__
        check_pair(base.backbone, self.backbone)
        for backbone in (base.backbone, self.backbone):
            _check_guidance_order(backbone)

    def encode_image_prompt(self, image_prompt: References) -> Tensor:
        """Image embeddings [references, image_embed_dim], which a later call takes as `image_prompt_embeds`."""
        return self.base.encode_image_prompt(image_prompt)

    @abstractmethod
    def base_calls(self, steps: int) -> int:
        """Calls of the base model's denoiser for one image of so many denoising steps."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Parameters that are loaded besides the upgraded model and the image encoder."""

    def _added_parameters(self, *modules: Any) -> int:
        """Parameters of modules, without those that the upgraded pipeline has too."""
        shared = {id(p) for m in self.pipe.components.values() if isinstance(m, nn.Module) for p in m.parameters()}
        sizes = {id(p): p.numel() for m in modules if isinstance(m, nn.Module) for p in m.parameters()}
        return sum(size for parameter, size in sizes.items() if parameter not in shared)


def check_pair(base: Backbone, upgraded: Backbone) -> None:
    """InputError where a time step of one model has no counterpart in the other."""
    if base.denoiser is upgraded.denoiser:
        raise InputError(
            f"The base and the upgraded model are the same {type(base.denoiser).__name__}; load two models."
        )
    found, expected = (b.prediction.num_train_timesteps for b in (base, upgraded))
    if found != expected:
        raise InputError(
            f"The base model has {found} time steps of training and the upgraded model {expected}; "
            "choose two models with equally many (num_train_timesteps of their schedulers)."
        )


def _check_guidance_order(backbone: Backbone) -> None:
    """InputError where guidance is not one batch of negatives and then prompts, in which both models share rows."""
    if backbone.guidance != "negative_first":
        raise InputError(
            f"{type(backbone.pipe).__name__} runs guidance as "
            f"{'two forward passes' if backbone.guidance == 'separate' else 'a batch that ends with negatives'}; "
            f"this baseline needs models that run it as one batch that begins with negatives."
        )


@contextmanager
def removing(*handles: RemovableHandle) -> Iterator[None]:
    """Remove forward hooks at the end of the context, also after an error."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def given_prompts(prompt: str | Sequence[str] | None) -> list[str]:
    """The prompts of a call as a list; InputError where there is none."""
    if prompt is None:
        raise InputError(
            "A prompt is missing; give prompt=, in words, since each of the two models encodes it in its own way."
        )
    return [prompt] if isinstance(prompt, str) else list(prompt)


def latents_and_timestep(denoiser: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Noisy latents and time step(s) of a denoiser's call; some pipelines pass them by name, some by position."""
    call = inspect.signature(denoiser.forward).bind(*args, **kwargs).arguments
    return next(iter(call.values())), call["timestep"]


@dataclass
class TwoModelMethod(Method):
    """A method that runs the base model, with its own adapter, for every image of the upgraded model.

    Args:
        base: the base model: a diffusers pipeline folder, hub name or zoo:NAME.
        adapter: the adapter that was made for it.
        model: the upgraded model.
        image_encoder: CLIP vision tower; by default the one that the adapter names.
        scale: weight of the image prompt.
        sampling: steps, guidance and size.
    """

    trained = ("adapter",)

    base: str
    adapter: str
    model: str
    image_encoder: str | None = None
    scale: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)

    def with_adapter(self) -> ImagePromptPipeline:
        """The base model's pipeline with its adapter."""
        return ImagePromptMethod(self.base, self.adapter, self.image_encoder).pipe

    def steps(self, pipe: DiffusionPipeline) -> int:
        """Denoising steps for one image: as configured, or the pipeline's default."""
        return self.sampling.steps or inspect.signature(type(pipe).__call__).parameters["num_inference_steps"].default
