"""An image prompt in diffusers' modular pipelines: a block around the one that denoises.

    blocks = ImagePromptDenoise().around(ZImageAutoBlocks())
    pipe = blocks.init_pipeline("Tongyi-MAI/Z-Image")
    pipe.load_components(torch_dtype=torch.bfloat16)
    pipe.update_components(image_prompt_adapter=A4A.from_pretrained("runs/z-image/adapter"))
    image = pipe(prompt="a dog on a beach", image_prompt="my-dog.png", output="images")[0]

It is written for no family: whatever denoiser a backbone serves, with guidance by any of diffusers' guiders.
"""

from typing import Any, ClassVar

from diffusers import ModularPipelineBlocks, SequentialPipelineBlocks
from diffusers.modular_pipelines import ComponentSpec, InputParam, OutputParam, PipelineState
from torch import Tensor

from a4a.adapters.base import ImagePromptAdapter
from a4a.backbones import backbone_for
from a4a.encoders import CLIPImageEncoder
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.injection import Injection, site_scales
from a4a.pipeline.pipeline import ImagePromptPipeline
from a4a.pipeline.references import References

Blocks = tuple[Any, PipelineState]
"""What every block returns: the pipeline, which holds the components, and the state."""


class ImagePromptStep(ModularPipelineBlocks):
    """Computes the features of the image prompt, once a call."""

    @property
    def description(self) -> str:
        return "Image features for each attention site of the denoiser, and those of no image."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [
            ComponentSpec("image_prompt_adapter", ImagePromptAdapter, "An adapter for the sites of the denoiser."),
            ComponentSpec("image_prompt_encoder", CLIPImageEncoder, "By default the one that the adapter names."),
        ]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("image_prompt", type_hint=References, description="One reference for all prompts, or for each."),
            InputParam("image_prompt_embeds", type_hint=Tensor, description="Image embeddings instead."),
            InputParam("image_prompt_scale", default=1.0, description="A number, or one for each site; 0 is without."),
            InputParam("prompt_embeds", required=True, description="One row a prompt; the text encoder makes them."),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam("image_prompt_features", SiteFeatures, "Keys and values, a row for each image to draw."),
            OutputParam("negative_image_prompt_features", SiteFeatures, "As many of no image, for guidance."),
        ]

    def __call__(self, components: Any, state: Any) -> Blocks:
        block_state: Any = self.get_block_state(state)
        positive = negative = None
        if block_state.image_prompt is not None or block_state.image_prompt_embeds is not None:
            prompted = self._prompted(components)
            embeds: Any = prompted.reference_embeds(block_state.image_prompt, block_state.image_prompt_embeds)
            images = state.get("num_images_per_prompt") or state.get("num_videos_per_prompt") or 1
            positive, negative = prompted.features_for_batch(embeds, len(block_state.prompt_embeds), images)
        block_state.image_prompt_features, block_state.negative_image_prompt_features = positive, negative
        self.set_block_state(state, block_state)
        return components, state

    def _prompted(self, components: Any) -> ImagePromptPipeline:
        if components.image_prompt_adapter is None:
            raise InputError(
                "An image prompt is given but the pipeline has no adapter; give it one by "
                "update_components(image_prompt_adapter=...)."
            )
        prompted = ImagePromptPipeline(components, components.image_prompt_adapter, components.image_prompt_encoder)
        if components.image_prompt_encoder is None and prompted.image_encoder is not None:
            components.update_components(image_prompt_encoder=prompted.image_encoder)  # loaded once
        return prompted


class ImagePromptDenoise(SequentialPipelineBlocks):
    """The block that denoises, with features attached for as long as it runs."""

    block_classes: ClassVar = [ImagePromptStep]
    block_names: ClassVar = ["image_prompt"]

    @property
    def description(self) -> str:
        return "Denoises with an image prompt: `around(blocks)` puts it around the block that denoises."

    def around(self, blocks: SequentialPipelineBlocks, name: str = "denoise") -> SequentialPipelineBlocks:
        """Puts this block in the place of the block of that name, which it then runs; returns `blocks`."""
        if name not in blocks.sub_blocks:
            raise InputError(
                f"{type(blocks).__name__} has no block {name}; name the one that denoises, of "
                f"{', '.join(blocks.sub_blocks)}."
            )
        denoise = blocks.sub_blocks[name]
        self.sub_blocks["denoise"] = denoise
        blocks.sub_blocks[name] = self
        return blocks

    def __call__(self, pipeline: Any, state: Any) -> Blocks:
        if "denoise" not in self.sub_blocks:
            raise InputError("The block ImagePromptDenoise has nothing to denoise with; call its around(blocks) first.")
        pipeline, state = self.sub_blocks["image_prompt"](pipeline, state)
        denoise, features = self.sub_blocks["denoise"], state.get("image_prompt_features")
        if features is None:
            return denoise(pipeline, state)
        backbone = backbone_for(pipeline)
        scales = site_scales(state.get("image_prompt_scale"), len(backbone.sites), "image_prompt_scale")
        with Injection(backbone.denoiser, backbone.sites) as injection:
            if getattr(pipeline, "guider", None) is not None:
                injection.forward.follow(pipeline.guider)
            injection.set(features, scales, state.get("negative_image_prompt_features"))
            return denoise(pipeline, state)
