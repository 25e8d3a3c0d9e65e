"""Other pipelines of a family: ControlNet, perturbed attention, images and videos to start from."""

import inspect

import pytest
import torch
from diffusers import (
    HunyuanDiT2DControlNetModel,
    HunyuanDiTControlNetPipeline,
    HunyuanDiTPAGPipeline,
    KolorsImg2ImgPipeline,
    SanaControlNetModel,
    SanaControlNetPipeline,
    SanaPAGPipeline,
    WanImageToVideoPipeline,
    WanVideoToVideoPipeline,
)
from PIL import Image

import tiny_models
from a4a.injection import is_attached
from a4a.pipeline import Course, ImagePrompt, ImagePromptPipeline


def control_net(kind, transformer, **options):
    names = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in transformer.config.items() if name in names} | options)


def sana_with_control_net():
    parts = tiny_models.sana().components
    net = control_net(SanaControlNetModel, parts["transformer"], num_layers=1)
    return SanaControlNetPipeline(**parts, controlnet=net), {"control_image": Image.new("RGB", (32, 32))}


def hunyuan_dit_with_control_net():
    parts = tiny_models.hunyuan_dit().components
    net = control_net(
        HunyuanDiT2DControlNetModel, parts["transformer"], conditioning_channels=3, transformer_num_layers=4
    )
    pipe = HunyuanDiTControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
    return pipe, {"control_image": Image.new("RGB", (64, 64))}


def sana_with_perturbed_attention():
    return SanaPAGPipeline(**tiny_models.sana().components, pag_applied_layers=["transformer_blocks.0"]), {
        "pag_scale": 2.0
    }


def hunyuan_dit_with_perturbed_attention():
    parts = tiny_models.hunyuan_dit().components
    return HunyuanDiTPAGPipeline(**parts, pag_applied_layers=["blocks.1"], requires_safety_checker=False), {
        "pag_scale": 2.0
    }


def kolors_from_an_image():
    pipe = KolorsImg2ImgPipeline(**tiny_models.kolors().components)
    return pipe, {"image": Image.new("RGB", (16, 16)), "strength": 1.0}


def wan_from_a_video():
    parts = {name: part for name, part in tiny_models.wan().components.items() if name != "transformer_2"}
    return WanVideoToVideoPipeline(**parts), {"video": [Image.new("RGB", (64, 64))] * 5, "strength": 1.0}


def wan_from_an_image():
    parts = {**tiny_models.wan().components, "transformer": tiny_models.wan_transformer(in_channels=36)}
    pipe = WanImageToVideoPipeline(**parts, image_encoder=None, image_processor=None)
    return pipe, {"image": Image.new("RGB", (64, 64)), "num_frames": 5}


VARIANTS = (
    sana_with_control_net,
    hunyuan_dit_with_control_net,
    sana_with_perturbed_attention,
    hunyuan_dit_with_perturbed_attention,
    kolors_from_an_image,
    wan_from_a_video,
    wan_from_an_image,
)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_an_image_prompt_changes_what_other_pipelines_of_a_family_draw(variant):
    torch.manual_seed(0)
    pipe, options = variant()
    tiny_models._quiet(pipe)
    prompted = ImagePromptPipeline(pipe, tiny_models.ip_adapter(pipe))
    plain, embeds = tiny_models.call(pipe, **options), tiny_models.embeds()
    assert torch.equal(tiny_models.call(prompted, **options), plain)
    found = tiny_models.call(prompted, image_prompt_embeds=embeds, **options)
    assert found.isfinite().all() and (found - plain).abs().max() > 1e-3
    rich = ImagePrompt(embeds=embeds, mask=torch.tensor([[1.0, 0.0]]), course=Course(end=0.5, last=0.5))
    in_part = tiny_models.call(prompted, image_prompt=rich, num_inference_steps=2, **options)
    assert in_part.isfinite().all()
    assert (in_part - tiny_models.call(pipe, num_inference_steps=2, **options)).abs().max() > 1e-3
    assert not is_attached(prompted.backbone.denoiser)
    assert torch.equal(tiny_models.call(pipe, **options), plain)
