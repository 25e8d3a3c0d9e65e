"""CLIP as an image encoder: pooled embeddings, tokens, and what stands for no image."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

import tiny_encoders
from a4a.encoders import CLIPImageEncoder
from a4a.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_encoders.clip(tmp_path_factory.mktemp("clip"), whole=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_encoders.clip(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def images():
    return [tiny_encoders.noise(0), tiny_encoders.noise(1)]


def test_pooled_embeddings_and_tokens_have_the_width_image_embed_dim(folder, images):
    pooled = CLIPImageEncoder.from_pretrained(folder)
    tokens = pooled.with_output("tokens")
    assert pooled(images).shape == (2, pooled.image_embed_dim) == (2, 24)
    assert tokens(images).shape == (2, 17, tokens.image_embed_dim) == (2, 17, 32)
    assert tokens.module is pooled.module
    assert pooled.output == "pooled"


@pytest.mark.parametrize("output", ["pooled", "tokens"])
def test_embeddings_are_those_of_diffusers_with_and_without_an_image(folder, images, output):
    """`encode_image` is what diffusers' IP-Adapter calls; its second result is the unconditional embedding."""
    model = CLIPVisionModelWithProjection.from_pretrained(folder)
    pipe = StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=CLIPImageProcessorPil.from_pretrained(folder),
        image_encoder=model.eval(),
        requires_safety_checker=False,
    )
    encoder = CLIPImageEncoder.from_pretrained(folder, output=output)
    with torch.no_grad():
        expected, unconditional = pipe.encode_image(images[0], "cpu", 1, output_hidden_states=output == "tokens")
    assert torch.equal(encoder(images[:1]), expected)
    assert torch.equal(encoder.unconditional(), unconditional)


def test_the_vision_tower_of_a_whole_model_is_the_same_encoder(whole, images):
    by_name, own = CLIPImageEncoder(whole), CLIPImageEncoder.from_pretrained(whole)
    assert torch.equal(by_name(images), own(images))
    assert by_name.fingerprint() == own.fingerprint()


def test_encoders_made_by_name_share_weights_and_loaded_ones_do_not(folder):
    first, second = CLIPImageEncoder(folder), CLIPImageEncoder(folder, output="tokens")
    assert first.module is second.module
    assert CLIPImageEncoder.from_pretrained(folder).module is not first.module


def test_an_encoder_moves_and_encodes_in_another_dtype(folder, images):
    encoder = CLIPImageEncoder.from_pretrained(folder).to("cpu", torch.bfloat16)
    assert encoder(images).dtype == torch.bfloat16
    assert encoder.unit_vectors(images).dtype == torch.float32


def test_a_folder_that_is_no_vision_model_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}')
    with pytest.raises(InputError, match="could not be loaded as a CLIP vision model"):
        CLIPImageEncoder.from_pretrained(tmp_path)
