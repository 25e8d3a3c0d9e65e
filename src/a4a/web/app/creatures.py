"""The zoo's creatures as references: drawn, and in no training set."""

from functools import cache
from typing import Any

import gradio as gr
from PIL import Image

from a4a.web.app.session import Session, enlarged
from a4a.zoo.evaluation import WorldTask

CREATURES = 96
PAGE = 12
PROMPTS = {
    "on a beach": "a large creature in the middle, on a beach",
    "in the snow": "a small creature on the left, in the snow",
    "in a city at night": "a large creature on the right, in a city at night",
    "under the sea": "a small creature in the middle, under the sea",
    "in a forest": "a large creature on the left, in a forest",
    "in a room": "a small creature on the right, in a room",
}
"""Prompts as the zoo's models know them, by a short name."""


@cache
def _creatures() -> list[Image.Image]:
    return [enlarged(image) for image in WorldTask("test", CREATURES, 1).references]


def creature(number: int) -> Image.Image:
    """One of the creatures."""
    return _creatures()[number % CREATURES]


def creatures_input(reference: gr.Image, session: gr.State) -> None:
    """A page of creatures; a click on one makes it the reference."""
    gr.HTML('<p class="a4a-label">Or one of these creatures</p>')
    gallery = gr.Gallery(
        _page(0),
        label="Creatures",
        show_label=False,
        columns=6,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id="creatures",
        object_fit="cover",
    )
    others = gr.Button("Show other creatures", size="sm", variant="secondary", elem_id="others")

    def choose(visitor: Session, event: gr.SelectData) -> Image.Image:
        return creature(visitor.first_creature + int(event.index))

    def turn(visitor: Session) -> tuple[Any, Session]:
        visitor.first_creature = (visitor.first_creature + PAGE) % CREATURES
        return gr.Gallery(_page(visitor.first_creature), selected_index=None), visitor

    gallery.select(choose, session, reference, queue=False, api_visibility="private")
    others.click(turn, session, [gallery, session], queue=False, api_visibility="private")


def _page(first: int) -> list[tuple[Image.Image, str]]:
    return [(creature(first + i).resize((128, 128), Image.Resampling.LANCZOS), "") for i in range(PAGE)]
