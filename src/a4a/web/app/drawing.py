"""One picture at a time, on one thread, step by step: with previews, and stopped when nobody waits for it any more."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from queue import SimpleQueue
from threading import Event
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from a4a.backbones import Backbone
from a4a.pipeline import ImagePromptPipeline
from a4a.utils.images import to_pil

PREVIEWS = 5
"""Previews of a picture at most: each costs a pass through the VAE."""


@dataclass(frozen=True)
class Settings:
    """What a picture depends on, besides model, adapter and reference."""

    prompt: str
    seed: int
    scale: float = 1.0
    steps: int | None = None
    guidance: float | None = None
    """Steps and guidance are the pipeline's own where they are not given."""


@dataclass(frozen=True)
class Step:
    """A denoising step that is done."""

    number: int
    total: int
    preview: Image.Image | None
    """What the picture is about to become; at some steps alone."""


class _Stopped(Exception):
    """Nobody waits for the picture any more."""


class DrawingThread:
    """The thread that draws. One alone, since pictures drawn side by side would each take longer."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "drawing")
        self._closed = Event()
        self._stops: dict[Event, str] = {}

    def close(self) -> None:
        """Stops what is being drawn, and what waits."""
        self._closed.set()
        self._executor.shutdown(wait=False)

    def leave(self, owner: str) -> None:
        """Stops what is drawn for a visitor who has left."""
        for stop, waiting in list(self._stops.items()):
            if waiting == owner:
                stop.set()

    def run(self, task: Callable[[], Any]) -> Future:
        """Runs something else on the thread, such as loading a model."""
        return self._executor.submit(task)

    def draw(
        self,
        load: Callable[[], ImagePromptPipeline],
        reference: Image.Image | None,
        settings: Settings,
        owner: str = "",
    ) -> Iterator[Step | Image.Image]:
        """Yields every step, then the picture. Closing the iterator stops the drawing after the step that it is at.

        `load` gives the pipeline; it runs on the thread, too. Without a reference the picture is the plain model's.
        `owner` is who waits for it, as `leave` knows them.
        """
        found: SimpleQueue[Step | Image.Image | None] = SimpleQueue()
        stop = Event()
        self._stops[stop] = owner

        def stopped() -> bool:
            return stop.is_set() or self._closed.is_set()

        def task() -> None:
            try:
                if stopped():
                    raise _Stopped
                found.put(_draw(load(), reference, settings, found.put, stopped))
            except _Stopped:
                pass
            finally:
                found.put(None)

        future = self._executor.submit(task)
        try:
            while (event := found.get()) is not None:
                yield event
            future.result()  # raises what failed
        finally:
            stop.set()
            future.cancel()
            del self._stops[stop]


def _draw(
    pipe: ImagePromptPipeline,
    reference: Image.Image | None,
    settings: Settings,
    report: Callable[[Step], None],
    stopped: Callable[[], bool],
) -> Image.Image:
    options: dict[str, Any] = {"num_inference_steps": settings.steps} | pipe.backbone.image_options()
    options = {name: value for name, value in options.items() if value is not None}
    if settings.guidance is not None:
        options |= pipe.backbone.guidance_options(settings.guidance, 1)
    if reference is not None:
        options |= {"image_prompt": reference, "image_prompt_scale": settings.scale}
    with observed_steps(pipe.backbone, report, stopped):
        result = pipe(settings.prompt, generator=torch.Generator().manual_seed(settings.seed), **options)
    return pipe.backbone.drawn_images(result)[0]


@contextmanager
def observed_steps(backbone: Backbone, report: Callable[[Step], None], stopped: Callable[[], bool]) -> Iterator[None]:
    """Reports every step of the scheduler of a pipeline; ends a call of the pipeline at a step once `stopped` says so."""
    scheduler = backbone.pipe.scheduler
    own_step, prediction, done = scheduler.step, backbone.prediction, 0

    @wraps(own_step)  # pipelines look at the signature
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        if stopped():
            raise _Stopped
        as_tuple = not kwargs.pop("return_dict", True)
        output = own_step(model_output, timestep, sample, *args, **kwargs)
        done, total = done + 1, len(scheduler.timesteps)
        preview = None
        if done < total and done % -(-total // (PREVIEWS + 1)) == 0:
            clean = getattr(output, "pred_original_sample", None)
            if clean is None:
                at = torch.as_tensor(timestep, device=sample.device).reshape(-1)
                clean = prediction.clean_latents(sample, model_output, at)
            preview = _preview(backbone, clean)
        report(Step(done, total, preview))
        return output.to_tuple() if as_tuple else output

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step  # the class's own is there again


@torch.no_grad()
def _preview(backbone: Backbone, clean: Tensor) -> Image.Image | None:
    """Latents decoded; None for pipelines that pack theirs, or that draw videos."""
    if clean.ndim != 4 or clean.shape[1] != backbone.latent_channels:
        return None
    pixels = backbone.decode_latents(clean[:1].to(backbone.vae.dtype))
    return to_pil(pixels.float() / 2 + 0.5)[0]
