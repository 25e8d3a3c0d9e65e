"""Shared helpers of the HTML pages: images as data URLs, templates."""

import base64
import io
from pathlib import Path

import jinja2
from PIL import Image


def _page(**values) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string((Path(__file__).parent / "demo.html").read_text()).render(**values)


def _embed(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
