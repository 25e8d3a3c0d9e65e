"""The zoo's four text-to-image models as diffusers pipelines, and their training."""

from pathlib import Path
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from a4a.backbones import backbone_for
from a4a.data.cached import CachedDataset, encode_images
from a4a.training.denoising import Denoising, LearningRates, ObjectiveConfig
from a4a.zoo.autoencoder import LATENT_CHANNELS
from a4a.zoo.context import BuildContext
from a4a.zoo.dataset import WorldImages
from a4a.zoo.evaluation import write_test_scores
from a4a.zoo.trait_conditioning import TraitConditioned

LATENT_SIZE = 8
"""Side of the latents."""


def scheduler() -> DPMSolverMultistepScheduler:
    """Stable Diffusion's noise schedule; 15 steps of this solver are enough.

    The models predict velocity, as SD2.1 does: noise prediction gives little weight to the noisiest steps, in which a
    text decides where things are, so that a small U-Net learns the place last.
    """
    noise = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
    }
    return DPMSolverMultistepScheduler(**noise, timestep_spacing="trailing", steps_offset=1)


def load_vae(models: Path) -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained(models / "vae", dtype=torch.float32)
    vae.register_to_config(_name_or_path="zoo:vae")  # whichever folder it was built in
    return vae


def sd15_mini(models: Path, widths: list[int], heads: int) -> StableDiffusionPipeline:
    """The base model: three widths with cross-attention, 5, 5 and 6 sites at them, 16 in all as SD1.5 has."""
    text_encoder = CLIPTextModel.from_pretrained(models / "clip-small" / "text_encoder", dtype=torch.float32)
    options: dict[str, Any] = {
        "sample_size": LATENT_SIZE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": tuple(widths),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
        "layers_per_block": 2,
        "attention_head_dim": heads,
        "cross_attention_dim": text_encoder.config.hidden_size,
        "norm_num_groups": 16,
    }
    parts: dict[str, Any] = {
        "vae": load_vae(models),
        "text_encoder": text_encoder,
        "tokenizer": CLIPTokenizer.from_pretrained(models / "clip-small" / "tokenizer"),
        "unet": UNet2DConditionModel(**options),
        "scheduler": scheduler(),
    }
    safety: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, **safety)


def sdxl_mini(
    models: Path, widths: list[int], heads: list[int], layers: list[int], time_width: int
) -> StableDiffusionXLPipeline:
    """The upgraded U-Net: two widths, blocks of several layers, two text encoders, pooled text and time ids."""
    first = CLIPTextModel.from_pretrained(models / "clip-small" / "text_encoder", dtype=torch.float32)
    second = CLIPTextModelWithProjection.from_pretrained(
        models / "clip-medium" / "text_encoder_with_projection", dtype=torch.float32
    )
    first_config, second_config = cast(Any, first.config), cast(Any, second.config)
    options: dict[str, Any] = {
        "sample_size": LATENT_SIZE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": tuple(widths),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "layers_per_block": 2,
        "transformer_layers_per_block": tuple(layers),
        "attention_head_dim": tuple(heads),
        "cross_attention_dim": first_config.hidden_size + second_config.hidden_size,
        "norm_num_groups": 8,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": time_width,
        "projection_class_embeddings_input_dim": second_config.projection_dim + 6 * time_width,
    }
    parts: dict[str, Any] = {
        "vae": load_vae(models),
        "text_encoder": first,
        "tokenizer": CLIPTokenizer.from_pretrained(models / "clip-small" / "tokenizer"),
        "text_encoder_2": second,
        "tokenizer_2": CLIPTokenizer.from_pretrained(models / "clip-medium" / "tokenizer"),
        "unet": UNet2DConditionModel(**options),
        "scheduler": scheduler(),
    }
    return StableDiffusionXLPipeline(**parts, add_watermarker=False)


def pixart_mini(models: Path, layers: int, heads: int, head_width: int) -> PixArtAlphaPipeline:
    """The upgraded transformer, with learned variance and T5 as its text encoder."""
    text_encoder = T5EncoderModel.from_pretrained(models / "t5" / "text_encoder", dtype=torch.float32)
    options: dict[str, Any] = {
        "sample_size": LATENT_SIZE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": 2 * LATENT_CHANNELS,
        "num_layers": layers,
        "num_attention_heads": heads,
        "attention_head_dim": head_width,
        "cross_attention_dim": heads * head_width,
        "caption_channels": text_encoder.config.d_model,
        "patch_size": 1,
        "use_additional_conditions": False,
    }
    transformer = PixArtTransformer2DModel(**options)
    return PixArtAlphaPipeline(
        tokenizer=T5Tokenizer.from_pretrained(models / "t5" / "tokenizer"),
        text_encoder=text_encoder,
        vae=load_vae(models),
        transformer=transformer,
        scheduler=scheduler(),
    )


def sd3_mini(models: Path, layers: int, heads: int, head_width: int, shift: float) -> StableDiffusion3Pipeline:
    """Text and image rows that attend to each other, as in SD3.5, trained by flow matching; two CLIPs and T5."""
    clips = [
        CLIPTextModelWithProjection.from_pretrained(models / folder, dtype=torch.float32)
        for folder in ("clip-large", "clip-medium/text_encoder_with_projection")
    ]
    configs = [cast(Any, clip.config) for clip in clips]
    t5 = T5EncoderModel.from_pretrained(models / "t5-wide" / "text_encoder", dtype=torch.float32)
    vae = load_vae(models)
    vae.register_to_config(shift_factor=0.0)  # SD3's pipeline needs a number
    options: dict[str, Any] = {
        "sample_size": LATENT_SIZE,
        "pos_embed_max_size": LATENT_SIZE,
        "patch_size": 1,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "num_layers": layers,
        "num_attention_heads": heads,
        "attention_head_dim": head_width,
        "caption_projection_dim": heads * head_width,
        "joint_attention_dim": t5.config.d_model,
        "pooled_projection_dim": sum(config.projection_dim for config in configs),
        "qk_norm": "rms_norm",
    }
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**options),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae,
        text_encoder=clips[0],
        tokenizer=CLIPTokenizer.from_pretrained(models / "clip-large" / "tokenizer"),
        text_encoder_2=clips[1],
        tokenizer_2=CLIPTokenizer.from_pretrained(models / "clip-medium" / "tokenizer"),
        text_encoder_3=t5,
        tokenizer_3=T5Tokenizer.from_pretrained(models / "t5-wide" / "tokenizer"),
    )


def build_sd15_mini(context: BuildContext, name: str, target: Path, model: dict[str, Any], **recipe: Any) -> None:
    """Stage: the base model."""
    _train_denoiser(context, name, target, sd15_mini(context.models, **model), **recipe)


def build_sdxl_mini(context: BuildContext, name: str, target: Path, model: dict[str, Any], **recipe: Any) -> None:
    """Stage: the upgraded U-Net."""
    _train_denoiser(context, name, target, sdxl_mini(context.models, **model), **recipe)


def build_pixart_mini(context: BuildContext, name: str, target: Path, model: dict[str, Any], **recipe: Any) -> None:
    """Stage: the upgraded transformer."""
    _train_denoiser(context, name, target, pixart_mini(context.models, **model), **recipe)


def build_sd3_mini(context: BuildContext, name: str, target: Path, model: dict[str, Any], **recipe: Any) -> None:
    """Stage: the upgraded transformer of joint attention and flow matching."""
    _train_denoiser(context, name, target, sd3_mini(context.models, **model), **recipe)


def _train_denoiser(
    context: BuildContext,
    name: str,
    target: Path,
    pipe: DiffusionPipeline,
    training: dict[str, Any],
    data: dict[str, Any],
    learning_rate: float,
    trait_conditioning: dict[str, Any],
    compile: bool = False,
) -> None:
    """Train a pipeline's denoiser on drawings and captions, then on the subjects' traits too; save and score it.

    `trait_conditioning` has the `rates` and the `training` of the second part.
    """
    backbone = backbone_for(pipe)
    images = WorldImages("train", **data)
    dataset = encode_images(images, backbone, None, context.cache)
    objective = Denoising(backbone, None, ObjectiveConfig(rates=LearningRates(denoiser=learning_rate)))
    objective.config.dropping.image = 0.0  # there are no image prompts; texts are left out one time in ten
    if compile:
        backbone.denoiser.compile()
    context.train(name, objective, dataset, training)

    lessons = TraitConditioned(backbone, LearningRates(**trait_conditioning["rates"]))
    context.train(f"{name}-traits", lessons, _with_traits(dataset, images), trait_conditioning["training"])
    lessons.detach()
    pipe.to(dtype=torch.float16).save_pretrained(target)
    samples = training["samples"] + trait_conditioning["training"]["samples"]
    write_test_scores(context, target, pipe.to(dtype=torch.float32), None, samples)


def _with_traits(dataset: CachedDataset, images: WorldImages) -> CachedDataset:
    """The same encodings with the traits of each reference's subject in place of its image embedding."""
    references = images.pairs[:, 0].unique()
    traits = images.subjects[references].trait_vectors()
    return CachedDataset(dataset.latents, traits, dataset.text, dataset.caption_rows, dataset.pairs, dataset.sizes)
