"""What every image encoder promises; a new one needs a line in `MAKERS` and nothing else."""

import importlib
import pkgutil

import pytest
import torch

import a4a.encoders
import tiny_encoders
from a4a.encoders.base import ImageEncoder
from a4a.errors import InputError

MAKERS = {
    "CLIPImageEncoder": lambda folder: (tiny_encoders.clip(folder, whole=False),),
    "CLIPImageEncoder of tokens": lambda folder: (tiny_encoders.clip(folder, whole=False), "tokens"),
    "DINO": lambda folder: (tiny_encoders.dino(folder),),
    "ArcFace": lambda folder: (tiny_encoders.faces(folder),),
}


def kinds():
    for module in pkgutil.iter_modules(a4a.encoders.__path__):
        importlib.import_module(f"a4a.encoders.{module.name}")
    found, waiting = {}, [ImageEncoder]
    while waiting:
        children = waiting.pop().__subclasses__()
        found |= {kind.__name__: kind for kind in children if kind.__module__.startswith("a4a.encoders.")}
        waiting += children
    del found["TorchImageEncoder"]
    return found


@pytest.fixture(scope="module", params=MAKERS)
def encoder(request, tmp_path_factory):
    kind = kinds()[request.param.split(" ")[0]]
    return kind(*MAKERS[request.param](tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def images():
    return [tiny_encoders.random_blocks(0), tiny_encoders.noise(1)]


def test_every_encoder_has_a_test():
    assert set(kinds()) <= set(MAKERS)


def test_embeddings_have_the_shape_that_the_encoder_says(encoder, images):
    embeds = encoder(images)
    assert embeds.ndim == (2 if encoder.output == "pooled" else 3)
    assert (embeds.shape[0], embeds.shape[-1]) == (2, encoder.image_embed_dim)
    assert embeds.isfinite().all()
    assert not torch.allclose(embeds[0], embeds[1], atol=1e-3)


def test_the_unconditional_embedding_has_the_shape_of_an_images(encoder, images):
    assert encoder.unconditional().shape[1:] == encoder(images).shape[1:]
    if encoder.output == "pooled":
        assert not encoder.unconditional().any()


def test_pixel_tensors_and_images_have_the_same_embeddings(encoder, images):
    pixels = torch.stack([torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).view(64, 64, 3) for i in images])
    torch.testing.assert_close(encoder(pixels.permute(0, 3, 1, 2) / 255), encoder(images), atol=1e-5, rtol=1e-5)


def test_unit_vectors_have_length_one(encoder, images):
    if encoder.output == "pooled":
        vectors = encoder.unit_vectors(images)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_an_encoder_moves_and_has_a_fingerprint_of_its_weights(encoder):
    assert encoder.to("cpu") is encoder
    assert encoder.fingerprint() == encoder.fingerprint()
    assert encoder.key


def test_another_output_is_given_or_refused_in_a_sentence(encoder, images):
    other = "tokens" if encoder.output == "pooled" else "pooled"
    try:
        assert encoder.with_output(other)(images).shape[-1] == encoder.with_output(other).image_embed_dim
    except InputError as error:
        assert f"not {other}" in str(error)
    assert encoder.with_output(encoder.output)(images).equal(encoder(images))
