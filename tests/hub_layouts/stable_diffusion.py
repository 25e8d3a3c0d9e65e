"""SD1.5 with its safety checker, and SDXL base with the files that other programs read."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from hub_layouts.autoencoder import vae
from hub_layouts.files import position_ids, prefixed, write_json, write_weights
from hub_layouts.vocabularies import clip_tokenizer

SD15, SDXL = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"
TEXT = 16
VARIANTS = ["{}.safetensors", "{}.fp16.safetensors", "{}.bin", "{}.fp16.bin"]
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def sd15(folder: Path) -> None:
    torch.manual_seed(1)
    version = "0.6.0"
    diffusion = [v.format("diffusion_pytorch_model") for v in VARIANTS]
    text = [v.format("model" if "safetensors" in v else "pytorch_model") for v in VARIANTS]
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": version,
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    (folder / "v1-inference.yaml").write_text("model: {target: ldm.models.diffusion.ddpm.LatentDiffusion}\n")
    for file in ("v1-5-pruned-emaonly.safetensors", "v1-5-pruned.safetensors"):
        write_weights(folder / file, {"model.diffusion_model.out.2.bias": torch.zeros(4)})
    _scheduler(folder / "scheduler", "PNDMScheduler", version, clip_sample=False)
    _text_encoder(folder / "text_encoder", clip_tokenizer(folder / "tokenizer"), text)
    _safety_checker(folder / "safety_checker", text)
    _feature_extractor(folder / "feature_extractor")
    config = {**UNET, **SD15_UNET, "_diffusers_version": version}
    weights = _unet(folder / "unet", config, diffusion)
    write_weights(folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors", weights)
    vae(folder / "vae", version, 512, diffusion, former_names=True)


def sdxl(folder: Path) -> None:
    torch.manual_seed(2)
    version = "0.19.0.dev0"
    diffusion = [f"diffusion_pytorch_model{v}.safetensors" for v in ("", ".fp16")]
    text = [f"model{v}.safetensors" for v in ("", ".fp16")]
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": version,
            "add_watermarker": None,
            "force_zeros_for_empty_prompt": True,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n")
    for file in ("base_1.0", "base_1.0_0.9vae", "offset_example-lora_1.0"):
        write_weights(folder / f"sd_xl_{file}.safetensors", {"model.diffusion_model.out.2.bias": torch.zeros(4)})
    sampling = {"interpolation_type": "linear", "timestep_spacing": "leading", "use_karras_sigmas": False}
    unused = {"clip_sample": False, "sample_max_value": 1.0}
    _scheduler(folder / "scheduler", "EulerDiscreteScheduler", version, **sampling, **unused)
    _text_encoder(folder / "text_encoder", clip_tokenizer(folder / "tokenizer"), text)
    _text_encoder(folder / "text_encoder_2", clip_tokenizer(folder / "tokenizer_2", pad_token="!"), text, True)
    _unet(folder / "unet", {**UNET, **SDXL_UNET, "_diffusers_version": version}, diffusion)
    fields = {"force_upcast": True, "scaling_factor": 0.13025}
    for name in ("vae", "vae_1_0"):
        vae(folder / name, "0.20.0.dev0", 1024, diffusion, **fields)
    for name in ("text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder"):  # for other programs
        _unread(folder / name / "model.onnx")
        _unread(folder / name / "openvino_model.bin")
        _unread(folder / name / "openvino_model.xml")
    _unread(folder / "text_encoder" / "flax_model.msgpack")


UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 8,
    "out_channels": 4,
}
SD15_UNET = {
    "attention_head_dim": 2,
    "block_out_channels": [8, 16, 24, 24],
    "cross_attention_dim": TEXT,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SDXL_UNET = {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 8,
    "attention_head_dim": [1, 2, 3],
    "block_out_channels": [8, 16, 24],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2 * TEXT,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": TEXT + 6 * 8,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 1, 2],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}


def _unet(folder: Path, config: dict[str, Any], files: list[str]) -> dict[str, torch.Tensor]:
    write_json(folder / "config.json", config)
    weights = UNet2DConditionModel.from_config(config).state_dict()
    for file in files:
        write_weights(folder / file, weights)
    return weights


def _text_encoder(folder: Path, vocabulary: int, files: list[str], projection: bool = False) -> None:
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    config = {
        "architectures": [kind.__name__],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "gelu" if projection else "quick_gelu",
        "hidden_size": TEXT,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 2 * TEXT,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pad_token_id": 1,
        "projection_dim": TEXT,
        "torch_dtype": "float32",
        "transformers_version": "4.22.0.dev0",
        "vocab_size": vocabulary,
    }
    write_json(folder / "config.json", config)
    weights = kind(CLIPTextConfig(**config)).state_dict()
    if not projection:
        weights = prefixed("text_model", weights)
    for file in files:
        write_weights(folder / file, position_ids(weights, "text_model.embeddings"))


def _safety_checker(folder: Path, files: list[str]) -> None:
    """One that takes every image for unsafe: each threshold is below any similarity."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    vision = {"model_type": "clip_vision_model", "hidden_act": "quick_gelu", "image_size": 224, "patch_size": 14}
    config = {
        "_commit_hash": None,
        "architectures": ["StableDiffusionSafetyChecker"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 12,
        "text_config": {"model_type": "clip_text_model", "hidden_act": "quick_gelu", "vocab_size": 49408, **sizes},
        "torch_dtype": "float32",
        "transformers_version": None,
        "vision_config": {**vision, **sizes},
    }
    write_json(folder / "config.json", config)
    weights = StableDiffusionSafetyChecker(CLIPConfig(**config)).state_dict()
    weights |= {name: torch.full_like(t, -1.0) for name, t in weights.items() if name.endswith("_embeds_weights")}
    inner = {f"vision_{n}" if n.startswith("vision_model.") else n: t for n, t in weights.items()}
    published = {n.replace("vision_vision_model.", "vision_model.vision_model."): t for n, t in inner.items()}
    for file in files:
        write_weights(folder / file, position_ids(published, "vision_model.vision_model.embeddings"))


def _feature_extractor(folder: Path) -> None:
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": 224,
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            "resample": 3,
            "size": 224,
        },
    )


def _scheduler(folder: Path, kind: str, version: str, **fields: Any) -> None:
    noise = {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000}
    shared = {"set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}
    config = {"_class_name": kind, "_diffusers_version": version, "prediction_type": "epsilon"}
    write_json(folder / "scheduler_config.json", {**config, **noise, **shared, **fields})


def _unread(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"for another program")
