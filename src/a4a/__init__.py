"""A4A: image-prompt adapters of one diffusion model, made to work on another."""

from importlib import import_module
from typing import TYPE_CHECKING

from a4a.utils.quiet import drop_import_notes

if TYPE_CHECKING:
    from a4a.adapters.a4a import A4A
    from a4a.adapters.base import ImagePromptAdapter
    from a4a.adapters.formats import read as read_ip_adapter
    from a4a.adapters.formats import write as write_ip_adapter
    from a4a.adapters.ip_adapter import IPAdapter
    from a4a.adapters.loading import load_adapter
    from a4a.backbones import load_pipeline
    from a4a.encoders.clip import CLIPImageEncoder
    from a4a.errors import InputError
    from a4a.features import Site, SiteFeatures
    from a4a.injection import Injection, attach
    from a4a.pipeline import Course, ImagePrompt, ImagePromptPipeline, load_a4a

    __version__: str

drop_import_notes()

_MODULES = {
    "A4A": "adapters.a4a",
    "CLIPImageEncoder": "encoders.clip",
    "Course": "pipeline",
    "IPAdapter": "adapters.ip_adapter",
    "ImagePrompt": "pipeline",
    "ImagePromptAdapter": "adapters.base",
    "ImagePromptPipeline": "pipeline",
    "Injection": "injection",
    "InputError": "errors",
    "Site": "features",
    "SiteFeatures": "features",
    "attach": "injection",
    "load_a4a": "pipeline",
    "load_adapter": "adapters.loading",
    "load_pipeline": "backbones",
    "read_ip_adapter": "adapters.formats",
    "write_ip_adapter": "adapters.formats",
}
"""Module of each public name."""
_NAMES_THERE = {"read_ip_adapter": "read", "write_ip_adapter": "write"}
"""Public names that their module calls differently."""

__all__ = [
    "A4A",
    "CLIPImageEncoder",
    "Course",
    "IPAdapter",
    "ImagePrompt",
    "ImagePromptAdapter",
    "ImagePromptPipeline",
    "Injection",
    "InputError",
    "Site",
    "SiteFeatures",
    "attach",
    "load_a4a",
    "load_adapter",
    "load_pipeline",
    "read_ip_adapter",
    "write_ip_adapter",
]


def __getattr__(name: str):
    """Import a public name on first use: torch and diffusers take seconds, and `a4a --help` should not."""
    if name == "__version__":
        from importlib.metadata import version

        return version("a4a")
    if name not in _MODULES:
        raise AttributeError(f"module 'a4a' has no attribute {name!r}")
    return getattr(import_module(f"a4a.{_MODULES[name]}"), _NAMES_THERE.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
