"""A4A: image-prompt adapters of one diffusion model, made to work on another."""

from a4a.adapters.a4a import A4A
from a4a.adapters.adapter import ImagePromptAdapter
from a4a.adapters.checkpoint import read as read_ip_adapter
from a4a.adapters.checkpoint import write as write_ip_adapter
from a4a.adapters.encoders import CLIPImageEncoder
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.loading import load_adapter
from a4a.errors import InputError
from a4a.features import Site, SiteFeatures
from a4a.injection import Injection, attach
from a4a.pipeline import ImagePromptPipeline

__all__ = [
    "A4A",
    "CLIPImageEncoder",
    "IPAdapter",
    "ImagePromptAdapter",
    "ImagePromptPipeline",
    "Injection",
    "InputError",
    "Site",
    "SiteFeatures",
    "attach",
    "load_adapter",
    "read_ip_adapter",
    "write_ip_adapter",
]
