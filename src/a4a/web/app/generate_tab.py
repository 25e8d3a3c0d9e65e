"""The first tab: a picture by a reference and a prompt, beside the same seed without the reference."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from a4a.web.app.creatures import PROMPTS, creature, creatures_input
from a4a.web.app.drawing import Settings, Step
from a4a.web.app.errors import sentences, shown_as_sentences
from a4a.web.app.parts import bar, note
from a4a.web.app.session import Session, Studio, check_prompt, check_reference, enlarged
from a4a.web.app.uploads import upload_input

MAX_SEED = 2**31 - 1
HINT = "Choose a reference, write a prompt and press Generate."
STOPPED = "Stopped."
DRAWING = "drawing"
"""Events with this concurrency id wait for each other."""


@dataclass
class GenerateTab:
    """The inputs of the tab, in the order in which the API takes them."""

    reference: gr.Image
    prompt: gr.Textbox
    model: gr.Dropdown
    adapter: gr.Dropdown
    scale: gr.Slider
    seed: gr.Number
    steps: gr.Slider
    guidance: gr.Slider

    def inputs(self) -> list[Any]:
        return list(vars(self).values())


def generate_tab(studio: Studio, session: gr.State) -> GenerateTab:
    """Lays out the tab and says what its buttons do."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            reference = _reference(studio, session)
            prompt = _prompt(studio)
            with gr.Row(elem_classes="a4a-buttons"):
                run = gr.Button("Generate", variant="primary", elem_id="generate", scale=3, min_width=120)
                stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
        with gr.Column(scale=3, min_width=300):
            with gr.Row(elem_classes="a4a-pictures", equal_height=False):
                picture = _picture("With the reference", "picture")
                plain = _picture("Same seed, text alone", "plain")
            status = gr.HTML(note(HINT), elem_id="status")
            tab, randomise = _settings(studio, reference, prompt)
    inputs = [*tab.inputs(), randomise, session]
    outputs = [picture, plain, status, tab.seed, session]

    @sentences
    def draw_both(*values: Any) -> Iterator[tuple]:
        *request, new_seed, visitor = values
        if new_seed:
            request[5] = random.randint(0, MAX_SEED)
        yield from _generate(studio, visitor, *request)

    def again(*values: Any) -> Iterator[tuple]:
        """The slider was moved: draws the same seed again, where something was drawn before."""
        *request, _, visitor = values
        if visitor.plain is not None and request[0] is not None:
            yield from draw_both(*request, False, visitor)

    options: dict[str, Any] = {
        "concurrency_id": DRAWING,
        "concurrency_limit": 1,
        "show_progress_on": [status],
        "api_visibility": "private",
    }
    click = gr.on([run.click, prompt.submit], draw_both, inputs, outputs, **options)
    moved = tab.scale.release(again, inputs, outputs, trigger_mode="always_last", **options)
    stopped = stop.click(
        lambda visitor: studio.thread.leave(visitor.owner), session, None, queue=False, api_visibility="private"
    )
    # what has not begun yet
    stopped.then(lambda: note(STOPPED), None, status, cancels=[click, moved], queue=False, api_visibility="private")
    _api(studio, tab)
    return tab


def _reference(studio: Studio, session: gr.State) -> gr.Image:
    first = creature(0) if studio.catalogue.zoo else None
    reference = upload_input(
        value=first,
        label="Reference",
        height=260,
        elem_id="reference",
        placeholder="Drop a picture here\nPNG, JPEG or WebP",
    )
    # a file that is refused disappears again
    checked = reference.upload(lambda _: None, reference, None, api_visibility="private")
    checked.failure(lambda: None, None, reference, api_visibility="private")
    if studio.catalogue.zoo:
        creatures_input(reference, session)
    return reference


def _prompt(studio: Studio) -> gr.Textbox:
    prompts = PROMPTS if studio.catalogue.zoo else {}
    prompt = gr.Textbox(
        label="Prompt",
        value=next(iter(prompts.values()), ""),
        lines=1,
        max_lines=4,
        placeholder="What the picture shows; the reference says how its subject looks",
        max_length=500,
        elem_id="prompt",
    )
    if prompts:
        examples = [[text] for text in prompts.values()]
        gr.Examples(examples, prompt, label="Try", example_labels=list(prompts), api_visibility="private")
    return prompt


def _picture(label: str, name: str) -> gr.Image:
    with gr.Column(min_width=130):
        gr.HTML(f'<p class="a4a-label">{label}</p>')
        return gr.Image(
            label=label,
            show_label=False,
            interactive=False,
            format="png",
            buttons=["download", "fullscreen"],
            elem_id=name,
            elem_classes="a4a-picture",
            alt_text=label,
            placeholder="",
        )


def _settings(studio: Studio, reference: gr.Image, prompt: gr.Textbox) -> tuple[GenerateTab, gr.Checkbox]:
    """The sliders and lists below the pictures; a checkbox says whether every picture gets a new seed."""
    models = studio.catalogue.models
    first = models[0]
    scale = gr.Slider(0, 1.5, 1.0, step=0.05, label="Scale of the reference", elem_id="scale")
    with gr.Row():
        model = gr.Dropdown([m.label for m in models], value=first.label, label="Model", min_width=160, elem_id="model")
        labels = [a.label for a in first.adapters]
        adapter = gr.Dropdown(labels, value=labels[0], label="Adapter", min_width=220, scale=2, elem_id="adapter")
    with gr.Row(elem_classes="a4a-seed"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=140, elem_id="seed")
        randomise = gr.Checkbox(False, label="A new seed for every picture", min_width=160)
    with gr.Accordion("Advanced", open=False):
        steps = gr.Slider(2, 100, first.steps, step=1, label="Steps", elem_id="steps")
        guidance = gr.Slider(1, 15, first.guidance, step=0.5, label="Guidance", elem_id="guidance")
    tab = GenerateTab(reference, prompt, model, adapter, scale, seed, steps, guidance)
    model.input(
        lambda label: gr.Dropdown([a.label for a in studio.catalogue.model(label).adapters], value=None),
        model,
        adapter,
        queue=False,
        api_visibility="private",
    )
    return tab, randomise


def _generate(
    studio: Studio,
    visitor: Session,
    reference: Image.Image | None,
    prompt: str,
    model: str,
    adapter: str,
    scale: float,
    seed: int,
    steps: int,
    guidance: float,
) -> Iterator[tuple]:
    """Values of picture, plain picture, status, seed and session, again and again until both pictures are there."""
    settings = Settings(check_prompt(prompt), seed or 0, scale, int(steps), guidance)
    image, load = check_reference(reference), studio.loader(visitor, model, adapter)
    key = (model, settings.prompt, settings.seed, settings.steps, settings.guidance)
    known = visitor.plain[1] if visitor.plain is not None and visitor.plain[0] == key else None
    references = [image] if known else [image, None]
    began = time.perf_counter()
    yield gr.skip(), enlarged(known) if known else gr.skip(), bar(0, "Starting"), settings.seed, gr.skip()
    event = None
    for number, given in enumerate(references):
        for event in studio.thread.draw(load, given, settings, visitor.owner):
            picture = event.preview if isinstance(event, Step) else event
            shown = gr.skip() if picture is None else enlarged(picture)
            places = (shown, gr.skip()) if given is image else (gr.skip(), shown)
            if isinstance(event, Step):
                yield *places, _progress(event, number, len(references)), gr.skip(), gr.skip()
            elif given is image:
                yield *places, gr.skip(), gr.skip(), gr.skip()
            else:
                visitor.plain = (key, event)
                yield *places, gr.skip(), gr.skip(), visitor
        if not isinstance(event, Image.Image):  # the last one was a step
            yield gr.skip(), gr.skip(), note(STOPPED), gr.skip(), gr.skip()
            return
    seconds = time.perf_counter() - began
    words = f"Seed {settings.seed}, scale {scale:g}, {settings.steps} steps, {seconds:.1f} s"
    yield gr.skip(), gr.skip(), note(words), gr.skip(), gr.skip()


def _progress(step: Step, drawn: int, count: int) -> str:
    done = (drawn + step.number / step.total) / count
    return bar(done, f"Picture {drawn + 1} of {count}, step {step.number} of {step.total}")


def _drawn(events: Iterator[Step | Image.Image]) -> Image.Image:
    """The picture that a drawing ends with."""
    *_, picture = events
    assert isinstance(picture, Image.Image)
    return picture


def _api(studio: Studio, tab: GenerateTab) -> None:
    """The same as a function for `gradio_client`: three results, and none on the way."""
    picture = gr.Image(visible=False, label="picture", format="png")
    plain = gr.Image(visible=False, label="plain", format="png")
    details = gr.JSON(visible=False, label="details")

    def generate(
        reference: Image.Image,
        prompt: str,
        model: str,
        adapter: str,
        scale: float,
        seed: int,
        steps: int,
        guidance: float,
    ) -> tuple[Image.Image, Image.Image, dict]:
        """Draw a prompt with a reference, and the same seed from the prompt alone.

        Returns both pictures at the size of the model, and what they were drawn with.
        """
        with shown_as_sentences():
            settings = Settings(check_prompt(prompt), seed or 0, scale, int(steps), guidance)
            load = studio.loader(Session(), model, adapter)
            image = check_reference(reference)
            drawn, alone = (_drawn(studio.thread.draw(load, given, settings)) for given in (image, None))
        return drawn, alone, {"seed": settings.seed, "scale": scale, "model": model, "adapter": adapter}

    gr.Button(visible=False).click(
        generate,
        tab.inputs(),
        [picture, plain, details],
        api_name="generate",
        concurrency_id=DRAWING,
        concurrency_limit=1,
    )
