"""Folders as the hub has them: file names, class names and configuration fields of published models.

Weights are tiny and random: sizes, and what follows from them (token ids), differ from the published files. Pictures and
licences are left out. Weights have the names of the published files, which today's libraries would not always write.
"""

from hub_layouts.adapters import H94, IMAGE_ENCODERS, ip_adapter
from hub_layouts.cache import add_to_cache
from hub_layouts.captions import BLIP2, blip2
from hub_layouts.faces import antelopev2
from hub_layouts.pixart import ALPHA, SIGMA, pixart_alpha, pixart_sigma
from hub_layouts.stable_diffusion import SD15, SDXL, sd15, sdxl

MODELS = {ALPHA: pixart_alpha, SIGMA: pixart_sigma, SD15: sd15, SDXL: sdxl}
"""Builders of diffusers pipelines by hub name; each fills an empty folder."""

__all__ = [
    "ALPHA",
    "BLIP2",
    "H94",
    "IMAGE_ENCODERS",
    "MODELS",
    "SD15",
    "SDXL",
    "SIGMA",
    "add_to_cache",
    "antelopev2",
    "blip2",
    "ip_adapter",
]
