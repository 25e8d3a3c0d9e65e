"""What the page knows of one visitor, and what its tabs share."""

from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from a4a.errors import InputError
from a4a.pipeline import ImagePromptPipeline
from a4a.web.app.catalogue import AdapterChoice, Catalogue, find_adapter
from a4a.web.app.drawing import DrawingThread
from a4a.web.app.models import Models

SHOWN_SIDE = 384
"""Smaller pictures are enlarged to this side for the page."""
PROMPT_LENGTH = 500


@dataclass
class Session:
    """One visitor's own things; Gradio keeps one in a `gr.State` for each."""

    adapters: dict[str, tuple[AdapterChoice, ...]] = field(default_factory=dict)
    """Adapters that the visitor has trained, by the model's label."""
    plain: tuple[tuple, Image.Image] | None = None
    """The last picture without an image prompt, and what it depends on."""
    first_creature: int = 0
    """The first of the creatures that are offered as references."""
    transfer: str | None = None
    """The name of the visitor's transfer."""
    owner: str = ""
    """Gradio's name of the visit, by which the server hears that it is over."""


@dataclass(frozen=True)
class Studio:
    """What the server shares between visitors: models, never pictures."""

    catalogue: Catalogue
    models: Models
    thread: DrawingThread

    def loader(self, session: Session, model: str, adapter: str) -> partial[ImagePromptPipeline]:
        """What loads a pipeline by the labels of its model and its adapter; InputError where there is none."""
        chosen = self.catalogue.model(model)
        return partial(self.models.pipeline, chosen, find_adapter(chosen, session.adapters.get(model, ()), adapter))


def check_prompt(prompt: str | None) -> str:
    """The prompt; InputError where there is none, or a very long one."""
    prompt = (prompt or "").strip()
    if not prompt:
        raise InputError("The prompt is empty; say what the picture shows.")
    if len(prompt) > PROMPT_LENGTH:
        raise InputError(f"The prompt has {len(prompt)} characters; give at most {PROMPT_LENGTH}.")
    return prompt


def check_reference(reference: Image.Image | None) -> Image.Image:
    """The reference; InputError where there is none."""
    if reference is None:
        raise InputError("There is no reference picture; choose or upload one.")
    return reference


def enlarged(image: Image.Image) -> Image.Image:
    """A picture at least SHOWN_SIDE wide, by a whole factor: browsers enlarge small ones with less care."""
    factor = -(-SHOWN_SIDE // image.width)
    return (
        image if factor == 1 else image.resize((factor * image.width, factor * image.height), Image.Resampling.LANCZOS)
    )
