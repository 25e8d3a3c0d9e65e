"""Any diffusers pipeline of a supported denoiser, with an image prompt."""

from a4a.pipeline.course import Course
from a4a.pipeline.image_prompt import ImagePrompt, ImagePrompts
from a4a.pipeline.mixin import load_a4a
from a4a.pipeline.pipeline import ImagePromptPipeline
from a4a.pipeline.references import Reference, References

__all__ = ["Course", "ImagePrompt", "ImagePromptPipeline", "ImagePrompts", "Reference", "References", "load_a4a"]
