"""The nodes, in ComfyUI's V3 form. Their ids are saved in people's workflows and never change."""

from pathlib import Path
from typing import Any

import folder_paths  # pyright: ignore[reportMissingImports] (ComfyUI's, as the next ones)
from comfy.ldm.modules.attention import optimized_attention  # pyright: ignore[reportMissingImports]
from comfy.model_management import get_torch_device  # pyright: ignore[reportMissingImports]
from comfy_api.latest import ComfyExtension, io  # pyright: ignore[reportMissingImports]

from a4a import InputError
from a4a.pipeline.adapter import EncodedAdapter

from . import features
from .apply import WEIGHT_TYPE_NAMES, apply

CATEGORY = "A4A"
MODEL_FOLDER = "a4a"
"""Folder of adapters in ComfyUI's folder of models."""
SUFFIX = ".safetensors"
COMBINE = (
    "concat: the model sees all images. average, norm average, add, subtract: of their embeddings. "
    "batch: one image for each of a batch of latents."
)

Adapter = io.Custom("A4A_ADAPTER")
ImagePrompts = io.Custom("A4A_IMAGE_PROMPTS")


class LoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="A4ALoadAdapter",
            display_name="Load A4A Adapter",
            category=CATEGORY,
            description="An image-prompt adapter with its image encoder.",
            inputs=[
                io.String.Input("adapter", tooltip="A folder or file in models/a4a, a path, zoo:NAME or a hub name."),
                io.String.Input(
                    "image_encoder", default="", tooltip="By default the encoder that the adapter names; else as above."
                ),
                io.String.Input("source", default="", tooltip="For an adapter of several sources: which of them."),
            ],
            outputs=[Adapter.Output()],
        )

    @classmethod
    def execute(cls, adapter: str, image_encoder: str, source: str) -> io.NodeOutput:
        encoder = _in_models(image_encoder) if image_encoder else ""
        return io.NodeOutput(features.load(_in_models(adapter), encoder, source))


class EncodeImagePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="A4AEncodeImagePrompt",
            display_name="Encode A4A Image Prompt",
            category=CATEGORY,
            description="Features of reference images, which hold for every prompt, seed and step.",
            inputs=[
                Adapter.Input("adapter"),
                io.Image.Input("image", tooltip="One reference or several."),
                io.String.Input("weights", default="", tooltip="Of the images, separated by commas: 1, 0.5. Else 1."),
                io.Combo.Input("combine", options=list(features.WAYS), tooltip=COMBINE),
                io.Image.Input("image_2", optional=True, tooltip="More references, of another size."),
                io.Image.Input("image_3", optional=True),
                io.Image.Input("image_4", optional=True),
                io.Image.Input("negative_image", optional=True, tooltip="What the picture should not be like."),
            ],
            outputs=[ImagePrompts.Output()],
        )

    @classmethod
    def execute(
        cls,
        adapter: EncodedAdapter,
        image: Any,
        weights: str,
        combine: str,
        image_2: Any = None,
        image_3: Any = None,
        image_4: Any = None,
        negative_image: Any = None,
    ) -> io.NodeOutput:
        images = [batch for batch in (image, image_2, image_3, image_4) if batch is not None]
        return io.NodeOutput(features.encode(adapter, images, weights, combine, negative_image, get_torch_device()))


class ApplyImagePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="A4AApplyImagePrompt",
            display_name="Apply A4A Image Prompt",
            category=CATEGORY,
            description="The model with an image prompt. Several of these nodes in a row add up.",
            inputs=[
                io.Model.Input("model"),
                ImagePrompts.Input("image_prompts"),
                io.Float.Input("scale", default=1.0, min=-2.0, max=5.0, step=0.05),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.01),
                io.Float.Input("end", default=1.0, min=0.0, max=1.0, step=0.01),
                io.Combo.Input("weight_type", options=list(WEIGHT_TYPE_NAMES), tooltip="Where in the model it acts."),
                io.Mask.Input("mask", optional=True, tooltip="Where in the picture it acts."),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        image_prompts: features.ImagePrompts,
        scale: float,
        start: float,
        end: float,
        weight_type: str,
        mask: Any = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(apply(model, image_prompts, optimized_attention, scale, start, end, weight_type, mask))


class SaveImagePrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="A4ASaveImagePrompts",
            display_name="Save A4A Image Prompts",
            category=CATEGORY,
            description="Writes features into ComfyUI's output folder, for use without adapter and image encoder.",
            inputs=[ImagePrompts.Input("image_prompts"), io.String.Input("name", default="image_prompt")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image_prompts: features.ImagePrompts, name: str) -> io.NodeOutput:
        features.save(image_prompts, _in_output(name))
        return io.NodeOutput()


class LoadImagePrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="A4ALoadImagePrompts",
            display_name="Load A4A Image Prompts",
            category=CATEGORY,
            description="Features that were saved into ComfyUI's output folder.",
            inputs=[io.String.Input("name", default="image_prompt")],
            outputs=[ImagePrompts.Output()],
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        return io.NodeOutput(features.read(_in_output(name)))

    @classmethod
    def fingerprint_inputs(cls, name: str) -> float:
        """Changes with the file, so that ComfyUI reads a new one."""
        file = _in_output(name)
        return file.stat().st_mtime if file.is_file() else 0.0


class A4AExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadAdapter, EncodeImagePrompt, ApplyImagePrompt, SaveImagePrompts, LoadImagePrompts]


def _in_models(name: str) -> str:
    """A name as a4a takes it; what is in ComfyUI's folder of models needs no path."""
    path = Path(folder_paths.models_dir, MODEL_FOLDER, name)
    return str(path) if path.exists() else name


def _in_output(name: str) -> Path:
    """A file of features in ComfyUI's output folder; InputError for names that lead elsewhere."""
    folder = Path(folder_paths.get_output_directory(), MODEL_FOLDER).resolve()
    file = (folder / f"{name.removesuffix(SUFFIX)}{SUFFIX}").resolve()
    if not name or not file.is_relative_to(folder):
        raise InputError(f"The name {name!r} leads out of the folder {folder}; give a name inside it.")
    return file
