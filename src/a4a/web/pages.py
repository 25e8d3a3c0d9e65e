"""What the HTML pages share: templates and images as data URLs, so that a page is one file."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image


def render(template: str, **values: Any) -> str:
    """Fill in a template of this folder. A name that the template uses and `values` lacks is an error."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string((Path(__file__).parent / template).read_text()).render(**values)


def data_url(image: Image.Image) -> str:
    """A PNG that an `<img>` can hold in its `src`."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
