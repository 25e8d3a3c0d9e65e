"""The second tab: every method for a model, on the same reference, prompt and seed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import torch
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from a4a.web.app.catalogue import Catalogue, ModelChoice
from a4a.web.app.drawing import Settings, Step
from a4a.web.app.errors import sentences
from a4a.web.app.generate_tab import DRAWING, STOPPED, GenerateTab
from a4a.web.app.parts import bar, heading, note
from a4a.web.app.session import Session, Studio, check_prompt, check_reference, enlarged
from a4a.zoo.evaluation import Identity

SCALES = (0.4, 0.7, 1.0)
"""What is compared where there is one adapter alone."""
Drawn = list[tuple[Image.Image, str]]


@dataclass(frozen=True)
class Method:
    """A picture of the comparison."""

    caption: str
    model: str
    adapter: str
    uses_reference: bool = True
    scale: float | None = None
    """That of the first tab by default."""


def compare_tab(studio: Studio, session: gr.State, inputs: GenerateTab) -> None:
    """Lays out the tab; reference, prompt, seed and the like are those of the first one."""
    models = [model.label for model in studio.catalogue.models]
    gr.HTML(
        heading(
            "The same seed by every method",
            "Reference, prompt, scale, seed and steps are those of the first tab."
            + (" Identity says how much a picture shows the creature of the reference: 1 is the same creature, "
               "0 is any other." if studio.catalogue.zoo else ""),
        )
    )  # fmt: skip
    with gr.Row(elem_classes="a4a-compare"):
        model = gr.Dropdown(models, value=models[0], label="Model", min_width=180, elem_id="compare-model")
        run = gr.Button("Compare", variant="primary", elem_id="compare", min_width=120)
        stop = gr.Button("Stop", min_width=80, elem_id="compare-stop")
    status = gr.HTML(note(""), elem_id="compare-status")
    gallery = gr.Gallery(
        show_label=False,
        columns=3,
        height="auto",
        object_fit="contain",
        interactive=False,
        format="png",
        buttons=["download", "fullscreen"],
        elem_id="compared",
    )

    @sentences
    def compare(label: str, *values: Any) -> Iterator[tuple[Any, str]]:
        *request, visitor = values
        yield from _compare(studio, visitor, label, *request)

    given = [inputs.reference, inputs.prompt, inputs.scale, inputs.seed, inputs.steps, inputs.guidance]
    event = run.click(
        compare,
        [model, *given, session],
        [gallery, status],
        concurrency_id=DRAWING,
        concurrency_limit=1,
        show_progress_on=[status],
        api_visibility="private",
    )
    stopped = stop.click(
        lambda visitor: studio.thread.leave(visitor.owner), session, None, queue=False, api_visibility="private"
    )
    stopped.then(lambda: note(STOPPED), None, status, cancels=[event], queue=False, api_visibility="private")


def methods(catalogue: Catalogue, visitor: Session, label: str) -> list[Method]:
    """What is drawn for a model: text alone, its adapters, and where it was upgraded the source on its own base."""
    chosen = catalogue.model(label)
    alone = Method("Text alone", label, chosen.adapters[0].label, uses_reference=False)
    if not catalogue.zoo:
        adapter = chosen.adapters[0].label
        return [alone, *(Method(f"Scale {scale:g}", label, adapter, scale=scale) for scale in SCALES)]
    adapters = (*chosen.adapters, *visitor.adapters.get(label, ()))
    found = [alone, *(Method(adapter.label, label, adapter.label) for adapter in adapters)]
    base = _base(catalogue)
    if base is not None and base.label != label:
        found.append(Method(f"The source on {base.label}", base.label, base.adapters[0].label))
    return found


def _base(catalogue: Catalogue) -> ModelChoice | None:
    """The model that the source of the transfers was trained for."""
    upgraded = {stage["model"] for stage in catalogue.stages.values()}
    return next((model for model in catalogue.models if model.label not in upgraded), None)


def _compare(
    studio: Studio,
    visitor: Session,
    label: str,
    reference: Image.Image | None,
    prompt: str,
    scale: float,
    seed: int,
    steps: int,
    guidance: float,
) -> Iterator[tuple[Any, Any]]:
    """Values of the gallery and the status, one picture more each time."""
    image = check_reference(reference)
    settings = Settings(check_prompt(prompt), seed or 0, scale, int(steps), guidance)
    listed, drawn = methods(studio.catalogue, visitor, label), list[tuple[str, str]]()
    yield [], bar(0, "Starting")
    for number, method in enumerate(listed):
        own = settings if method.scale is None else replace(settings, scale=method.scale)
        load = studio.loader(visitor, method.model, method.adapter)
        for event in studio.thread.draw(load, image if method.uses_reference else None, own, visitor.owner):
            if isinstance(event, Step):
                done = (number + event.number / event.total) / len(listed)
                yield gr.skip(), bar(done, f"Picture {number + 1} of {len(listed)}: {method.caption}")
                continue
            caption = method.caption
            if studio.catalogue.zoo:
                caption += f": identity {identity(studio, image, event):.2f}"
            # as a file: gradio would write a picture anew at every step, also while a browser reads it
            file = save_pil_to_cache(enlarged(event), get_upload_folder(), format="png")
            drawn.append((file, caption))
            yield list(drawn), gr.skip()
        if len(drawn) == number:
            yield gr.skip(), note(STOPPED)
            return
    yield gr.skip(), note(f"Seed {settings.seed}, scale {scale:g}: {settings.prompt}")


def identity(studio: Studio, reference: Image.Image, picture: Image.Image) -> float:
    """Cosine similarity of the zoo's identity embeddings."""

    @torch.no_grad()
    def measure() -> float:
        first, second = Identity()([reference.resize(picture.size, Image.Resampling.LANCZOS), picture])
        return float(first @ second)

    return studio.thread.run(measure).result()
