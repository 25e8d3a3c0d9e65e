"""Small random diffusers pipelines, one or more of each family: real classes, seconds to run.

A new family adds a builder to `PIPELINES`, and its published models, if it names any, to `PUBLISHED`.
"""

import atexit
import copy
import inspect
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    KolorsPipeline,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    GlmConfig,
    GlmModel,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

import tiny_qwen
from a4a.adapters.a4a import A4A
from a4a.adapters.base import sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.multi_source import MultiSourceA4A
from a4a.backbones import backbone_for
from a4a.backbones.base import denoiser_part
from a4a.zoo import tokenizers

EMBED, TEXT, SIDE = 24, 16, 8
"""Width of image embeddings, of text states, and side of the latents."""


def call_default(pipeline, name):
    """The default of an argument of a pipeline's call."""
    return inspect.signature(pipeline.__call__).parameters[name].default


@cache
def clip_tokenizer():
    return tokenizers.clip_tokenizer()


@cache
def t5_tokenizer():
    return tokenizers.t5_tokenizer()


@cache
def bert_tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizer(
        vocab={
            w: i
            for i, w in enumerate([*words, *tokenizers.ALPHABET, *(f"##{letter}" for letter in tokenizers.ALPHABET)])
        },
        model_max_length=77,
    )


@cache
def gemma_tokenizer():
    """It knows the words that Sana's pipeline puts before each prompt, and spells all others."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", tokenizers.WORD_START, *tokenizers.ALPHABET]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    bpe.train_from_iterator(call_default(SanaPipeline, "complex_human_instruction"), trainer)
    model = json.loads(bpe.to_str())["model"]
    return GemmaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


@cache
def glm_tokenizer():
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tokenizers.sentences(500)),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=120,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return ChatGLMTokenizer(str(folder / "tokenizer.model"))


def vae(channels=4, shift=None, blocks=2):
    """With two blocks two pixels per latent, with four eight."""
    return AutoencoderKL(
        block_out_channels=(8,) * (blocks - 1) + (16,),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=2 * SIDE,
        shift_factor=shift,
    )


def clip_text(projection=False):
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT,
        intermediate_size=2 * TEXT,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=TEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5_text(width=TEXT, model=T5EncoderModel, config=T5Config):
    config = config(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_kv=8,
        num_heads=2,
        d_ff=32,
        num_layers=1,
        feed_forward_proj="gated-gelu",
    )
    return model(config)


def bert_text():
    config = BertConfig(
        vocab_size=len(bert_tokenizer()),
        hidden_size=TEXT,
        intermediate_size=2 * TEXT,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
    )
    return BertModel(config)


def glm_text():
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=160,
        hidden_size=TEXT,
        ffn_hidden_size=2 * TEXT,
        kv_channels=8,
        num_attention_heads=2,
        multi_query_attention=True,
        add_qkv_bias=True,
        original_rope=True,
    )
    model = ChatGLMModel(config)  # its weights are whatever was in memory
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, std=0.1) if p.ndim > 1 else torch.nn.init.constant_(p, "norm" in name)
    return model


def gemma_text(layers=1):
    config = Gemma2Config(
        vocab_size=len(gemma_tokenizer()),
        hidden_size=TEXT,
        intermediate_size=2 * TEXT,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Gemma2Model(config)


def scheduler():
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def sd15_unet():
    return UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(16, 32, 48),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=2,
        cross_attention_dim=TEXT,
        norm_num_groups=8,
    )


def sdxl_unet(**options):
    return UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(16, 32, 48),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 3),
        cross_attention_dim=2 * TEXT,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=TEXT + 6 * 8,
        **options,
    )


def pixart_transformer(sample_size=SIDE):
    return PixArtTransformer2DModel(
        sample_size=sample_size,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=TEXT,
        patch_size=1,
        norm_num_groups=8,
    )


def sd15():
    torch.manual_seed(1)
    parts = {
        "vae": vae(),
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "unet": sd15_unet(),
        "scheduler": scheduler(),
    }
    return _quiet(
        StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    )


def sdxl():
    torch.manual_seed(2)
    text = {
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_text(True),
        "tokenizer_2": clip_tokenizer(),
    }
    return _quiet(
        StableDiffusionXLPipeline(vae=vae(), **text, unet=sdxl_unet(), scheduler=scheduler(), add_watermarker=False)
    )


def kolors():
    """SDXL's U-Net, with a projection of ChatGLM's states before it, and a noise schedule of 1100 steps."""
    torch.manual_seed(9)
    noise = {"num_train_timesteps": 1100, "beta_start": 0.00085, "beta_end": 0.014, "beta_schedule": "scaled_linear"}
    parts = {"text_encoder": glm_text(), "tokenizer": glm_tokenizer(), "vae": vae()}
    unet = sdxl_unet(encoder_hid_dim=TEXT, encoder_hid_dim_type="text_proj")
    return _quiet(KolorsPipeline(**parts, unet=unet, scheduler=EulerDiscreteScheduler(**noise)))


def pixart(sample_size=SIDE):
    torch.manual_seed(3)
    parts = {"text_encoder": t5_text(), "tokenizer": t5_tokenizer(), "vae": vae(), "scheduler": scheduler()}
    return _quiet(PixArtAlphaPipeline(**parts, transformer=pixart_transformer(sample_size)))


def sigma(sample_size=SIDE):
    """Its tokenizer knows as many tokens as the real one."""
    parts = pixart(sample_size).components
    tokenizer = copy.deepcopy(parts["tokenizer"])
    tokenizer.model_max_length = 512
    return _quiet(PixArtSigmaPipeline(**{**parts, "tokenizer": tokenizer}))


def hunyuan_dit():
    """The last of its four blocks has a long skip connection. Its pipeline wants eight pixels per latent."""
    torch.manual_seed(5)
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        patch_size=2,
        sample_size=SIDE,
        hidden_size=24,
        num_layers=4,
        cross_attention_dim=TEXT,
        cross_attention_dim_t5=2 * TEXT,
        pooled_projection_dim=TEXT,
        use_style_cond_and_image_meta_size=False,
    )
    noise = {
        "beta_start": 0.00085,
        "beta_end": 0.018,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "clip_sample": False,
    }
    parts = {
        "text_encoder": bert_text(),
        "tokenizer": bert_tokenizer(),
        "text_encoder_2": t5_text(2 * TEXT),
        "tokenizer_2": t5_tokenizer(),
        "vae": vae(blocks=4),
        "scheduler": DDPMScheduler(**noise, prediction_type="v_prediction"),
    }
    return _quiet(
        HunyuanDiTPipeline(
            **parts,
            transformer=transformer,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sana_transformer(**options):
    return SanaTransformer2DModel(
        sample_size=SIDE,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        num_attention_heads=3,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=TEXT,
        **options,
    )


def dc_vae():
    """Four pixels per latent: Sana's pipelines want sides that 32 divides."""
    return AutoencoderDC(
        latent_channels=8,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        attention_head_dim=8,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )


def sana():
    torch.manual_seed(6)
    flow = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    parts = {"tokenizer": gemma_tokenizer(), "text_encoder": gemma_text(), "vae": dc_vae(), "scheduler": flow}
    return _quiet(SanaPipeline(**parts, transformer=sana_transformer()))


def sana_sprint():
    """Distilled guidance and steps; normalised queries."""
    torch.manual_seed(7)
    transformer = sana_transformer(qk_norm="rms_norm_across_heads", guidance_embeds=True)
    parts = {"tokenizer": gemma_tokenizer(), "text_encoder": gemma_text(), "vae": dc_vae()}
    return _quiet(SanaSprintPipeline(**parts, transformer=transformer, scheduler=SCMScheduler()))


def wan_transformer(**options):
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=TEXT,
        freq_dim=8,
        ffn_dim=48,
        num_layers=2,
        rope_max_seq_len=32,
        **options,
    )


def wan():
    torch.manual_seed(8)
    flow = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    text_encoder = t5_text(model=UMT5EncoderModel, config=UMT5Config)
    parts = {"tokenizer": t5_tokenizer(), "text_encoder": text_encoder, "scheduler": flow}
    video_vae = AutoencoderKLWan(base_dim=8, num_res_blocks=1)
    return _quiet(WanPipeline(**parts, vae=video_vae, transformer=wan_transformer()))


def sd3():
    """SD3.5-medium: normalised queries, and a self-attention beside the joint one in its first block."""
    torch.manual_seed(4)
    transformer = SD3Transformer2DModel(
        sample_size=SIDE,
        in_channels=8,
        out_channels=8,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=12,
        caption_projection_dim=24,
        joint_attention_dim=2 * TEXT,
        pooled_projection_dim=2 * TEXT,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    text = {
        "text_encoder": clip_text(True),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_text(True),
        "tokenizer_2": clip_tokenizer(),
        "text_encoder_3": t5_text(2 * TEXT),
        "tokenizer_3": t5_tokenizer(),
    }
    return _quiet(
        StableDiffusion3Pipeline(
            **text, vae=vae(8, 0.06), transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)
        )
    )


FLUX_SIZES = {
    "in_channels": 16,
    "num_layers": 3,
    "num_single_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "joint_attention_dim": 2 * TEXT,
    "axes_dims_rope": (4, 4, 8),
}


def flux(guidance_embeds=True, in_channels=16):
    torch.manual_seed(5)
    transformer = FluxTransformer2DModel(
        **{**FLUX_SIZES, "in_channels": in_channels},
        out_channels=16,
        pooled_projection_dim=TEXT,
        guidance_embeds=guidance_embeds,
    )
    text = {
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5_text(2 * TEXT),
        "tokenizer_2": t5_tokenizer(),
    }
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return _quiet(FluxPipeline(**text, vae=vae(4, 0.1), transformer=shaken(transformer, 0.05), scheduler=scheduler))


def chroma():
    torch.manual_seed(6)
    transformer = ChromaTransformer2DModel(
        **FLUX_SIZES, approximator_num_channels=16, approximator_hidden_dim=16, approximator_layers=1
    )
    transformer = shaken(transformer, 0.05)
    # else the rounded time steps of 16 bits would be far from exact ones
    transformer.distilled_guidance_layer.in_proj.weight.data *= 0.1
    text = {"text_encoder": t5_text(2 * TEXT), "tokenizer": t5_tokenizer()}
    return _quiet(
        ChromaPipeline(
            **text,
            vae=vae(4, 0.1),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    )


def aura_flow():
    torch.manual_seed(7)
    transformer = AuraFlowTransformer2DModel(
        sample_size=SIDE,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        num_attention_heads=2,
        attention_head_dim=12,
        joint_attention_dim=2 * TEXT,
        caption_projection_dim=24,
        pos_embed_max_size=16,
    )
    text = {"text_encoder": t5_text(2 * TEXT), "tokenizer": t5_tokenizer()}
    return _quiet(
        AuraFlowPipeline(
            **text,
            vae=vae(),
            transformer=shaken(transformer, 0.05),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        )
    )


def cogview4():
    """Its language model reads padding, which comes first."""
    torch.manual_seed(8)
    transformer = CogView4Transformer2DModel(
        sample_size=SIDE,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=16,
        text_embed_dim=2 * TEXT,
        time_embed_dim=16,
        condition_dim=8,
        rope_axes_dim=(8, 8),
    )
    tokenizer = copy.deepcopy(t5_tokenizer())
    tokenizer.padding_side = "left"
    language_model = GlmModel(
        GlmConfig(
            vocab_size=len(tokenizer),
            hidden_size=2 * TEXT,
            intermediate_size=4 * TEXT,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
    )
    return _quiet(
        CogView4Pipeline(
            tokenizer=tokenizer,
            text_encoder=language_model,
            vae=vae(),
            transformer=shaken(transformer, 0.05),
            scheduler=scheduler,
        )
    )


def qwen_image():
    torch.manual_seed(7)
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        axes_dims_rope=(4, 4, 8),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0],
    )
    # without the real one's shift_terminal, which divides by zero for a single step
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_image_seq_len=8192, max_shift=0.9)
    return _quiet(
        QwenImagePipeline(
            scheduler=scheduler,
            vae=vae,
            text_encoder=tiny_qwen.qwen25_vl(TEXT),
            tokenizer=tiny_qwen.tokenizer(),
            transformer=shaken(transformer, 0.05),
        )
    )


def flux2_vae():
    """Two pixels per latent, four channels; latents in patches of two by two are normalised by a batch norm."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=2 * SIDE,
    )
    torch.nn.init.uniform_(vae.bn.running_mean, -0.5, 0.5)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return vae


def flux2_transformer(guidance_embeds=False):
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=3 * TEXT,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )


def flux2():
    """FLUX.2 klein before distillation. Its pipeline reads the ninth, eighteenth and twenty-seventh layer of Qwen3."""
    torch.manual_seed(9)
    tokenizer = copy.deepcopy(tiny_qwen.tokenizer())
    tokenizer.model_max_length = 48
    return _quiet(
        Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=flux2_vae(),
            text_encoder=tiny_qwen.qwen3(TEXT, layers=27, model=Qwen3ForCausalLM),
            tokenizer=tokenizer,
            transformer=shaken(flux2_transformer(), 0.05),
        )
    )


def lumina2():
    """Two query heads share a key head. Its pipeline wants eight pixels per latent, and reads Gemma's last layer but one."""
    torch.manual_seed(10)
    transformer = Lumina2Transformer2DModel(
        sample_size=SIDE,
        in_channels=4,
        hidden_size=48,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 64, 64),
        cap_feat_dim=TEXT,
    )
    return _quiet(
        Lumina2Pipeline(
            transformer=shaken(transformer, 0.05),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
            vae=vae(4, 0.06, blocks=4),
            text_encoder=gemma_text(layers=2),
            tokenizer=copy.deepcopy(gemma_tokenizer()),
        )
    )


def z_image():
    torch.manual_seed(8)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT,
        axes_dims=[4, 4, 8],
        axes_lens=[1024, 256, 256],
    )
    return _quiet(
        ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(4, 0.06),
            text_encoder=tiny_qwen.qwen3(TEXT),
            tokenizer=tiny_qwen.tokenizer(),
            transformer=shaken(transformer, 0.05),
        )
    )


PIPELINES = {
    "sd15": sd15,
    "sdxl": sdxl,
    "pixart": pixart,
    "hunyuan_dit": hunyuan_dit,
    "sana": sana,
    "wan": wan,
    "sd3": sd3,
    "flux": flux,
    "flux2": flux2,
    "chroma": chroma,
    "aura_flow": aura_flow,
    "cogview4": cogview4,
    "qwen_image": qwen_image,
    "z_image": z_image,
    "lumina2": lumina2,
}
"""Builders by name: each name is a fixture, and every contract test runs on each."""

EXEMPLARS = ("sd15", "sdxl", "pixart", "sd3", "z_image")
"""One of each kind of attention and of guidance; tests of training, of whole calls and of adapters run on these."""

PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ({320: 5, 640: 5, 1280: 6}, 859.5),
    "stabilityai/stable-diffusion-2-1-base": ({320: 5, 640: 5, 1280: 6}, 865.9),
    "stabilityai/stable-diffusion-2-1": ({320: 5, 640: 5, 1280: 6}, 865.9),
    "stabilityai/stable-diffusion-xl-base-1.0": ({640: 10, 1280: 60}, 2567.5),
    "Kwai-Kolors/Kolors-diffusers": ({640: 10, 1280: 60}, 2579.5),
    "PixArt-alpha/PixArt-XL-2-1024-MS": ({1152: 28}, 611.3),
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": ({1152: 28}, 610.9),
    "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers": ({1408: 40}, 1500.0),
    "Efficient-Large-Model/Sana_600M_1024px_diffusers": ({1152: 28}, 591.7),
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": ({2240: 20}, 1604.5),
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": ({2240: 20}, 1604.6),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": ({1536: 30}, 1419.0),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": ({5120: 40}, 14288.5),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": ({3072: 30}, 4999.8),
    "stabilityai/stable-diffusion-3-medium-diffusers": ({1536: 24}, 2028.3),
    "stabilityai/stable-diffusion-3.5-medium": ({1536: 24}, 2243.2),
    "stabilityai/stable-diffusion-3.5-large": ({2432: 38}, 8056.6),
    "black-forest-labs/FLUX.1-dev": ({3072: 19}, 11901.4),
    "black-forest-labs/FLUX.1-schnell": ({3072: 19}, 11891.2),
    "black-forest-labs/FLUX.1-Kontext-dev": ({3072: 19}, 11901.4),
    "black-forest-labs/FLUX.2-dev": ({6144: 56}, 32223.3),
    "black-forest-labs/FLUX.2-klein-4B": ({3072: 25}, 3875.5),
    "black-forest-labs/FLUX.2-klein-base-4B": ({3072: 25}, 3875.5),
    "black-forest-labs/FLUX.2-klein-9B": ({4096: 32}, 9078.6),
    "black-forest-labs/FLUX.2-klein-base-9B": ({4096: 32}, 9078.6),
    "lodestones/Chroma1-HD": ({3072: 19}, 8900.0),
    "lodestones/Chroma1-Base": ({3072: 19}, 8900.0),
    "fal/AuraFlow-v0.2": ({3072: 36}, 6842.9),
    "fal/AuraFlow-v0.3": ({3072: 36}, 6858.6),
    "THUDM/CogView4-6B": ({4096: 28}, 6369.1),
    "Qwen/Qwen-Image": ({3072: 60}, 20430.4),
    "Alpha-VLLM/Lumina-Image-2.0": ({768: 26}, 2609.8),
    "Tongyi-MAI/Z-Image": ({3840: 30}, 6154.9),
    "Tongyi-MAI/Z-Image-Turbo": ({3840: 30}, 6154.9),
}
"""For each published model: its sites by width, and the denoiser's parameters in millions."""


def _quiet(pipe: DiffusionPipeline):
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def with_own_denoiser(pipe):
    """The same pipeline around a copy of its denoiser, for tests that change the denoiser."""
    name = denoiser_part(pipe)
    return _quiet(type(pipe)(**{**pipe.components, name: copy.deepcopy(pipe.components[name])}, **_flags(pipe)))


def _flags(pipe):
    return {"requires_safety_checker": False} if "requires_safety_checker" in pipe.config else {}


def base_projection(image_embed_dim, text_width, tokens=4):
    """Configuration of the base family's projection."""
    return {"family": "base", "image_embed_dim": image_embed_dim, "text_width": text_width, "tokens": tokens}


def ip_adapter(pipe, seed=0, tokens=4):
    """An adapter for the sites of a pipeline, with features large enough to matter."""
    torch.manual_seed(seed)
    sites = backbone_for(pipe).sites
    text_width = getattr(pipe, "unet", None).config.cross_attention_dim if hasattr(pipe, "unet") else TEXT
    adapter = IPAdapter(sites_to_config(sites), base_projection(EMBED, text_width, tokens))
    return shaken(adapter).requires_grad_(False)


class Samples:
    """Encoded training samples for one backbone: latents, text and embeddings."""

    def __init__(self, backbone, count=6):
        generator = torch.Generator().manual_seed(0)
        words = ("red", "blue", "small", "big", "green", "old", "young", "round")[:count]
        self.tensors = {
            "latents": torch.randn(count, backbone.latent_channels, SIDE, SIDE, generator=generator),
            "embeds": torch.randn(count, EMBED, generator=generator),
        }
        self.tensors |= {
            f"text.{name}": t for name, t in backbone.encode_text([f"a {word} cat" for word in words]).items()
        }

    def __len__(self):
        return len(self.tensors["latents"])

    def batch(self, indices):
        return {name: t[indices] for name, t in self.tensors.items()}


def a4a(source, pipe, seed=0, **options):
    torch.manual_seed(seed)
    return A4A.from_source(source, backbone_for(pipe).sites, **{"heads": 2, "rounds": 1, **options})


def two_sources(pipe, base, **options):
    """One A4A of two sources: `pooled` with 2 tokens of pooled embeddings, `more` with 4 of others."""
    torch.manual_seed(0)
    sources = {"pooled": ip_adapter(base, tokens=2), "more": ip_adapter(base, seed=1)}
    options = {"heads": 2, "rounds": 1, **options}
    return shaken(MultiSourceA4A.from_sources(sources, backbone_for(pipe).sites, **options), 0.1).eval()


def shaken(module, size=0.3):
    """Every parameter away from where it began, zeros included."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * size)
    return module


def embeds(rows=1, seed=0):
    return torch.randn(rows, EMBED, generator=torch.Generator().manual_seed(seed))


def inputs(backbone, rows=1, seed=0):
    """What `predict` takes: noisy latents, time steps and text."""
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(rows, backbone.latent_channels, SIDE, SIDE, generator=generator)
    timesteps = torch.randint(0, 1000, (rows,), generator=generator)
    return noisy, timesteps, backbone.encode_text(["a cat on a beach", "a red dog", "two birds"][:rows])


def call(pipe, prompt="a cat on a beach", seed=0, **kwargs):
    """One short run of any of the pipelines (or of an ImagePromptPipeline around one), as latents.

    `seed` is one number, or one for each image. Pipelines of videos draw one frame unless `num_frames` says more, and
    give latents [videos, channels, frames, height, width].
    """
    wrapped = getattr(pipe, "pipe", pipe)
    takes, backbone = inspect.signature(wrapped.__call__).parameters, backbone_for(wrapped)
    own = {name: value for name, value in backbone.call_options().items() if name in takes}
    side, prompts = SIDE * backbone.vae_scale_factor, len(prompt) if isinstance(prompt, list) else 1
    off = {"use_resolution_binning": False} if "use_resolution_binning" in takes else {}
    defaults = {
        "num_inference_steps": 2,
        "height": side,
        "width": side,
        "output_type": "latent",
        **backbone.guidance_options(kwargs.pop("guidance_scale", 3.0), prompts),
    }
    prompt = list(prompt) if isinstance(prompt, list) else prompt  # Z-Image's pipeline writes into it
    seeds = [seed] if isinstance(seed, int) else seed
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    generator = generators[0] if isinstance(seed, int) else generators
    if "num_frames" in takes:
        off["num_frames"] = 1
    return pipe(prompt=prompt, generator=generator, **{**own, **off, **defaults, **kwargs})[0]
