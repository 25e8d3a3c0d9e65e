"""PixArt-alpha and -Sigma at 1024 pixels: T5 in two files, its tokenizer as spiece.model, the legacy denoiser class."""

from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from transformers import T5Config, T5EncoderModel

from hub_layouts.autoencoder import vae
from hub_layouts.files import write_json, write_shards, write_weights
from hub_layouts.vocabularies import t5_tokenizer

ALPHA, SIGMA = "PixArt-alpha/PixArt-XL-2-1024-MS", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"
WIDTH, HEADS, TEXT = 24, 2, 16


def pixart_alpha(folder: Path) -> None:
    _pixart(folder, "PixArtAlphaPipeline", "0.22.0.dev0", {}, {"sample_size": 256, "scaling_factor": 0.18215})


def pixart_sigma(folder: Path) -> None:
    denoiser = {"interpolation_scale": 2, "use_additional_conditions": False}
    _pixart(folder, "PixArtSigmaPipeline", "0.28.0.dev0", denoiser, {"sample_size": 1024, "scaling_factor": 0.13025})


def _pixart(folder: Path, pipeline: str, version: str, denoiser: dict[str, Any], autoencoder: dict[str, Any]) -> None:
    torch.manual_seed(0)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": pipeline,
            "_diffusers_version": version,
            "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "T5Tokenizer"],
            "transformer": ["diffusers", "Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n")
    write_json(folder / "scheduler" / "scheduler_config.json", _scheduler(version))
    _text_encoder(folder / "text_encoder", t5_tokenizer(folder / "tokenizer"))
    _transformer(folder / "transformer", version, denoiser)
    vae(folder / "vae", version, files=["diffusion_pytorch_model.safetensors"], force_upcast=True, **autoencoder)


def _transformer(folder: Path, version: str, fields: dict[str, Any]) -> None:
    config = {
        "_class_name": "Transformer2DModel",
        "_diffusers_version": version,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": WIDTH // HEADS,
        "attention_type": "default",
        "caption_channels": TEXT,
        "cross_attention_dim": WIDTH,
        "double_self_attention": False,
        "dropout": 0.0,
        "in_channels": 4,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_single",
        "num_attention_heads": HEADS,
        "num_embeds_ada_norm": 1000,
        "num_layers": 2,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": 128,
        "upcast_attention": False,
        "use_linear_projection": False,
        **fields,
    }
    write_json(folder / "config.json", config)
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    unknown = ("double_self_attention", "num_vector_embeds", "only_cross_attention", "use_linear_projection")
    model = PixArtTransformer2DModel(**{name: value for name, value in known.items() if name not in unknown})
    write_weights(folder / "diffusion_pytorch_model.safetensors", model.state_dict())


def _text_encoder(folder: Path, vocabulary: int) -> None:
    config = {
        "architectures": ["T5EncoderModel"],
        "d_ff": 2 * TEXT,
        "d_kv": 8,
        "d_model": TEXT,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "num_decoder_layers": 1,
        "num_heads": 2,
        "num_layers": 1,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.34.0.dev0",
        "use_cache": True,
        "vocab_size": vocabulary,
    }
    write_json(folder / "config.json", config)
    write_shards(folder, T5EncoderModel(T5Config(**config)).state_dict())


def _scheduler(version: str) -> dict[str, Any]:
    return {
        "_class_name": "DPMSolverMultistepScheduler",
        "_diffusers_version": version,
        "algorithm_type": "dpmsolver++",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "dynamic_thresholding_ratio": 0.995,
        "euler_at_final": False,
        "lambda_min_clipped": float("-inf"),
        "lower_order_final": True,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "solver_order": 2,
        "solver_type": "midpoint",
        "steps_offset": 0,
        "thresholding": False,
        "timestep_spacing": "linspace",
        "trained_betas": None,
        "use_karras_sigmas": False,
        "use_lu_lambdas": False,
        "variance_type": None,
    }
