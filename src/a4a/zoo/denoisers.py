"""The zoo's three text-to-image models, untrained, as diffusers pipelines."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalOperand=false
# (diffusers annotates tuples of any length as tuples of one, and leaves names of configurations out)

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import Backbone
from a4a.injection import Injection
from a4a.training.denoising import Denoising, LearningRates, ObjectiveConfig
from a4a.zoo.world import Subjects


def scheduler() -> DPMSolverMultistepScheduler:
    """Stable Diffusion's noise; 15 steps of this solver are enough.

    The models predict velocity, as SD2.1 does: noise prediction hardly weighs the noisiest steps, where a text decides
    what goes where, and a small U-Net then learns place last.
    """
    noise = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
    }
    return DPMSolverMultistepScheduler(**noise, timestep_spacing="trailing", steps_offset=1)


def vae(models: Path) -> AutoencoderKL:
    model = AutoencoderKL.from_pretrained(models / "vae", dtype=torch.float32)
    model.register_to_config(_name_or_path="zoo:vae")  # wherever it was built
    return model


def sd15_mini(models: Path, widths: list[int], heads: int) -> StableDiffusionPipeline:
    """Three widths, cross-attention at all of them, 16 sites: 5, 5 and 6, as SD1.5."""
    text_encoder = CLIPTextModel.from_pretrained(models / "clip-small" / "text_encoder", dtype=torch.float32)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=tuple(widths),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=heads,
        cross_attention_dim=text_encoder.config.hidden_size,
        norm_num_groups=16,
    )
    return StableDiffusionPipeline(
        vae=vae(models),
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(models / "clip-small" / "tokenizer"),
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl_mini(
    models: Path, widths: list[int], heads: list[int], layers: list[int], time_width: int
) -> StableDiffusionXLPipeline:
    """Two widths, several transformer layers a block, two text encoders, pooled text and time ids."""
    first = CLIPTextModel.from_pretrained(models / "clip-small" / "text_encoder", dtype=torch.float32)
    second = CLIPTextModelWithProjection.from_pretrained(
        models / "clip-medium" / "text_encoder_with_projection", dtype=torch.float32
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=tuple(widths),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=2,
        transformer_layers_per_block=tuple(layers),
        attention_head_dim=tuple(heads),
        cross_attention_dim=first.config.hidden_size + second.config.hidden_size,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=second.config.projection_dim + 6 * time_width,
    )
    return StableDiffusionXLPipeline(
        vae=vae(models),
        text_encoder=first,
        tokenizer=CLIPTokenizer.from_pretrained(models / "clip-small" / "tokenizer"),
        text_encoder_2=second,
        tokenizer_2=CLIPTokenizer.from_pretrained(models / "clip-medium" / "tokenizer"),
        unet=unet,
        scheduler=scheduler(),
        add_watermarker=False,
    )


def pixart_mini(models: Path, layers: int, heads: int, head_width: int) -> PixArtAlphaPipeline:
    """A transformer with learned variance on T5."""
    text_encoder = T5EncoderModel.from_pretrained(models / "t5" / "text_encoder", dtype=torch.float32)
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        in_channels=8,
        out_channels=16,
        num_layers=layers,
        num_attention_heads=heads,
        attention_head_dim=head_width,
        cross_attention_dim=heads * head_width,
        caption_channels=text_encoder.config.d_model,
        patch_size=1,
        use_additional_conditions=False,
    )
    return PixArtAlphaPipeline(
        tokenizer=T5Tokenizer.from_pretrained(models / "t5" / "tokenizer"),
        text_encoder=text_encoder,
        vae=vae(models),
        transformer=transformer,
        scheduler=scheduler(),
    )


class TraitConditioned(Denoising):
    """A denoiser that is told three times in four which creature to draw, by an adapter on its exact traits.

    Captions of the world never speak of traits, so without this a denoiser knows no way to be told of them, and what an
    adapter can make a frozen one draw stays poor. A real text-to-image model has learned it from captions.
    """

    silent = 0.25
    """Steps without the adapter, which is thrown away in the end."""

    def __init__(self, backbone: Backbone, rates: LearningRates):
        text = backbone.text_projections()
        adapter = IPAdapter.from_denoiser(backbone.sites, text, Subjects.sample(1, "train").numbers().shape[1])
        super().__init__(backbone, adapter, ObjectiveConfig(rates=rates))
        self.denoiser.train().requires_grad_(True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            *super().parameter_groups(),
            {"name": "denoiser", "params": list(self.denoiser.parameters()), "lr": self.config.rates.denoiser},
        ]

    def set_condition(self, injection: Injection, adapter: ImagePromptAdapter, embeds: Tensor) -> None:
        if torch.rand(()) < self.silent:
            injection.clear()
        else:
            super().set_condition(injection, adapter, embeds)
