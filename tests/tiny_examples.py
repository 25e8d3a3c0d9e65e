"""Tiny models of the kinds that docs/extend.md adds to the package."""

import torch
from diffusers import CogVideoXDDIMScheduler, CogView3PlusPipeline, CogView3PlusTransformer2DModel
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

import tiny_models


def save_cogview3(folder):
    torch.manual_seed(0)
    transformer = CogView3PlusTransformer2DModel(
        sample_size=tiny_models.SIDE,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        text_embed_dim=tiny_models.TEXT,
        time_embed_dim=16,
        condition_dim=8,
        pos_embed_max_size=tiny_models.SIDE,
    )
    CogView3PlusPipeline(
        tokenizer=tiny_models.t5_tokenizer(),
        text_encoder=tiny_models.t5_text(),
        vae=tiny_models.vae(),
        transformer=tiny_models.shaken(transformer, 0.05),
        scheduler=CogVideoXDDIMScheduler(),
    ).save_pretrained(folder)
    return folder


def save_siglip(folder):
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
