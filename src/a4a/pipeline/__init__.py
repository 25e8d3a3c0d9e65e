"""Any diffusers pipeline of a supported denoiser, with an image prompt."""

from a4a.pipeline.pipeline import ImagePromptPipeline
from a4a.pipeline.references import ImagePrompt, Reference

__all__ = ["ImagePrompt", "ImagePromptPipeline", "Reference"]
