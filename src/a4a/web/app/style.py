"""How the page looks."""

from pathlib import Path

import gradio as gr

CSS = (Path(__file__).parent / "style.css").read_text()
HEAD = '<link rel="icon" href="data:,">'
FONTS = ("system-ui", "sans-serif")
"""Of the visitor's own machine: nothing is loaded from elsewhere."""


def theme() -> gr.themes.Base:
    """Neutral greys and the red of A4A's curves in the report."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.red,
        secondary_hue=gr.themes.colors.red,
        neutral_hue=gr.themes.colors.zinc,
        font=FONTS,
        font_mono=("ui-monospace", "monospace"),
        radius_size=gr.themes.sizes.radius_md,
    )
