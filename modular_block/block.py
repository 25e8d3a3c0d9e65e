"""The image prompt as a custom block of diffusers: `ModularPipelineBlocks.from_pretrained(folder, trust_remote_code=True)`."""

from a4a.pipeline.modular import ImagePromptDenoise

__all__ = ["ImagePromptDenoise"]
