"""What is encoded once lies on the disk and is found again, by what made it alone."""

import pytest
import torch

import tiny_encoders
import tiny_models
from a4a.backbones import SizeConditions, backbone_for
from a4a.data.base import TrainingImages
from a4a.data.cached import encode_images
from a4a.encoders.clip import CLIPImageEncoder

LINES = ["a red cat", "a blue dog", "a red cat", "two birds"]


class Noise(TrainingImages):
    """Pictures of noise; two have the same caption."""

    key = "noise"

    def __init__(self, captions=LINES):
        self.captions = list(captions)
        self.pairs = torch.arange(len(captions)).repeat(2, 1).T

    def __len__(self):
        return len(self.captions)

    def pixels(self, indices):
        return torch.rand(len(indices), 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_batch_has_the_sizes_of_its_targets(pixart, tmp_path):
    class Photos(Noise):
        def sizes(self, indices):
            return SizeConditions(indices[:, None] + torch.tensor([30, 40]), indices[:, None] * 2, indices[:, None] * 0)

    made = {kind: encode_images(kind(), backbone_for(pixart), None, tmp_path) for kind in (Noise, Photos)}
    plain, photos = (made[kind].batch(torch.tensor([3, 1])) for kind in (Noise, Photos))
    assert plain["original_size"].tolist() == plain["target_size"].tolist() == [[16, 16]] * 2
    assert plain["crop_top_left"].tolist() == [[0, 0]] * 2
    assert photos["original_size"].tolist() == [[33, 43], [31, 41]] and photos["crop_top_left"].tolist() == [[6], [2]]


def texts(batch):
    return {name: t for name, t in batch.items() if name.startswith("text.")}


def made(folder):
    return {p.name for p in folder.glob("text-*")}


def test_texts_are_encoded_once_and_kept_in_halves(pipe, tmp_path, monkeypatch):
    backbone = backbone_for(pipe)
    expected = backbone.encode_text(LINES)
    first = encode_images(Noise(), backbone, None, tmp_path).batch(torch.arange(4))
    monkeypatch.setattr(backbone, "encode_text", lambda lines: pytest.fail("texts were encoded again"))
    dataset = encode_images(Noise(), backbone, None, tmp_path)
    again = dataset.batch(torch.arange(4))
    assert {len(t) for t in dataset.text.values()} == {3}
    assert set(texts(first)) == {f"text.{name}" for name in expected}
    for name, t in expected.items():
        kept = t.half() if t.is_floating_point() else t
        for batch in (first, again):
            assert batch[f"text.{name}"].dtype == kept.dtype
            torch.testing.assert_close(batch[f"text.{name}"], kept, atol=1e-3, rtol=1e-2)
        assert torch.equal(first[f"text.{name}"], again[f"text.{name}"])


def test_other_captions_encoders_or_lengths_get_their_own_cache_file(tmp_path, monkeypatch):
    pipe = tiny_models.sdxl()
    backbone = backbone_for(pipe)
    encode_images(Noise(), backbone, None, tmp_path)
    encode_images(Noise([*LINES[:3], "three birds"]), backbone, None, tmp_path)
    assert len(made(tmp_path)) == 2
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        before = made(tmp_path)
        tiny_models.shaken(encoder)
        encode_images(Noise(), backbone, None, tmp_path)
        assert len(made(tmp_path) - before) == 1
    before = made(tmp_path)
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        monkeypatch.setattr(tokenizer, "model_max_length", 16)
    encode_images(Noise(), backbone, None, tmp_path)
    assert len(made(tmp_path) - before) == 1


class Grey(TrainingImages):
    def __init__(self, count, side):
        self.count, self.side, self.key = count, side, f"{count} {side}"
        self.captions, self.pairs = ["a cat"] * count, torch.arange(count)[:, None].expand(-1, 2)

    def __len__(self):
        return self.count

    def pixels(self, indices):
        return torch.full((1, 1, 1, 1), 0.5).expand(len(indices), 3, self.side, self.side)


@pytest.mark.parametrize(("side", "batches"), [(16, [64, 2]), (512, [8, 2]), (1024, [2, 2, 1]), (2048, [1, 1])])
def test_large_images_go_through_the_vae_few_at_a_time(pixart, tmp_path, monkeypatch, side, batches):
    seen, count = [], sum(batches)
    backbone = backbone_for(pixart)
    monkeypatch.setattr(
        backbone, "encode_pixels", lambda pixels: seen.append(len(pixels)) or torch.zeros(len(pixels), 4, 1, 1)
    )
    dataset = encode_images(Grey(count, side), backbone, None, tmp_path)
    assert seen == batches and dataset.latents.shape == (count, 4, 1, 1)


def test_pooled_embeddings_and_tokens_of_one_encoder_are_cached_apart(pixart, tmp_path):
    tiny_encoders.clip(tmp_path / "clip", whole=False)
    encoder, backbone = CLIPImageEncoder.from_pretrained(tmp_path / "clip"), backbone_for(pixart)
    for output, axes in (("pooled", 1), ("tokens", 2)):
        for _ in range(2):  # encoded, then read from the cache
            table = encode_images(Noise(), backbone, encoder.with_output(output), tmp_path)
            expected = encoder.with_output(output)(Noise().pixels(torch.arange(4)))
            assert len(table.embed_shape) == axes and table.image_embed_dim == expected.shape[-1]
            torch.testing.assert_close(table.references(4), expected, atol=5e-3, rtol=1e-2)
            assert table.batch(torch.tensor([1, 2]))["embeds"].shape == (2, *table.embed_shape)
            assert table.no_image.shape == (1, *table.embed_shape)
