"""`a4a prepare` from drawn images to training samples, interrupted, on a cluster, and with bad input."""

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import weakref
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image, ImageOps

import tiny_encoders
import tiny_models
from a4a.backbones import Backbone, backbone_for, load_pipeline
from a4a.data import PreparedDataset, shards
from a4a.data.base import EncodedDataset
from a4a.data.kept_images import KeptImage, read_kept_images, split_folder
from a4a.data.prepare.captioning import CaptionConfig, Captioner
from a4a.data.prepare.crops import Crop
from a4a.data.prepare.encoding import EncodeConfig
from a4a.data.prepare.filters import CheckConfig
from a4a.data.prepare.ray_runner import Actor
from a4a.data.prepare.run import prepare
from a4a.data.prepare.splits import Split
from a4a.data.prepare.stages import CheckStage, Chunk
from a4a.data.sources import ImageFolder, ImageRecord, Source, SubjectFolders
from a4a.data.subset import few_samples
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError
from a4a.utils.images import to_tensor
from prepare_resume import DEFECTS, draw_images, random_image

SIDE = 2 * tiny_models.SIDE


class Drawn(Source):
    """Images of noise with these records."""

    def __init__(self, records):
        self._records = records

    def records(self):
        return self._records

    def read(self, record):
        file = io.BytesIO()
        random_image(abs(hash(record.id)) % 1000).save(file, format="PNG")
        return file.getvalue()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_models.pixart().save_pretrained(folder / "pixart")
    tiny_models.sd15().save_pretrained(folder / "sd15")
    tiny_encoders.clip(folder / "clip", whole=False)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photos each of eight subjects."""
    folder = tmp_path_factory.mktemp("photos")
    for s in range(8):
        (folder / f"subject{s}").mkdir()
        for v in range(3):
            random_image(10 * s + v, 64 + 32 * (v == 1), 64).save(folder / f"subject{s}" / f"{v}.png")
    return folder


def encode(models, **options):
    return EncodeConfig(models / "pixart", {"clip": models / "clip"}, **options)


def prepare_photos(photos, models, output, **options):
    """Prepares the photos with small settings; returns the output folder."""
    options = {"crop": Crop(SIDE), "split": Split(0.2, 0.2), "chunk": 7, "encode": encode(models), **options}
    prepare(SubjectFolders(str(photos)), output, **options)
    return output


@pytest.fixture(scope="module")
def prepared(photos, models, tmp_path_factory):
    return prepare_photos(photos, models, tmp_path_factory.mktemp("prepared") / "p")


def report(output):
    """The lines of report.jsonl on images, and the warnings."""
    lines = [json.loads(line) for line in (output / "report.jsonl").read_text().splitlines()]
    return [line for line in lines if "id" in line], [line["warning"] for line in lines if "warning" in line]


def contents(output):
    return {
        str(p.relative_to(output)): p.read_bytes()
        for p in sorted(output.rglob("*"))
        if p.is_file() and p.suffix in (".arrow", ".jsonl")
    }


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "copied")


# --- steps ------------------------------------------------------------------------------------------------------------


def test_killed_five_times_the_rows_are_those_of_an_undisturbed_run(models, tmp_path):
    arguments = ["--count", "2000", "--model", str(models / "pixart"), "--image_encoder", str(models / "clip")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["src", *sys.path])}
    done = subprocess.run(
        [sys.executable, "benchmarks/prepare_resume.py", str(tmp_path / "x"), *arguments],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["same"] and result["hits"] >= 3 and result["done_twice"] == []
    assert result["counts"]["rows"] + result["counts"]["left_out"] == 2000


def test_every_defect_is_repaired_or_left_out_and_reported(tmp_path):
    expected = draw_images(tmp_path / "pictures", 2 * len(DEFECTS))
    prepare(ImageFolder(str(tmp_path / "pictures")), tmp_path / "out", check=CheckConfig(32), crop=Crop(SIDE))
    found = {line["id"]: line.get("left_out") or line["repaired"] for line in report(tmp_path / "out")[0]}
    assert {name for name, words in expected.items() if words} == found.keys()
    for name, words in found.items():
        assert words.startswith(expected[name]), name
    left_out = {line["id"] for line in report(tmp_path / "out")[0] if "left_out" in line}
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts["left_out"] == len(left_out) == 6 and counts["repaired"] == 4 and counts["rows"] == len(expected) - 6


def test_finished_chunks_are_not_done_again(photos, models, tmp_path, monkeypatch):
    prepare_photos(photos, models, tmp_path / "p")
    monkeypatch.setattr("a4a.data.prepare.encoding.load_pipeline", lambda *a, **k: pytest.fail("loaded"))
    monkeypatch.setattr(SubjectFolders, "read", lambda *a: pytest.fail("read"))
    prepare_photos(photos, models, tmp_path / "p")


def test_without_a_check_unreadable_images_are_reported_all_the_same(tmp_path, models):
    draw_images(tmp_path / "pictures", 8)
    prepare(
        ImageFolder(str(tmp_path / "pictures")), tmp_path / "out", check=None, crop=Crop(SIDE), encode=encode(models)
    )
    assert [line["left_out"].partition(":")[0] for line in report(tmp_path / "out")[0]] == ["broken"] * 3


def blip2(folder):
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessorPil

    tokenizer = tiny_models.clip_tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    processor = Blip2Processor(BlipImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, num_query_tokens=4)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id or 0,
    }
    text = {
        "model_type": "opt",
        **sizes,
        "ffn_dim": 16,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 16,
        **ids,
    }
    vision = {**sizes, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
    former = {**sizes, "intermediate_size": 16, "encoder_hidden_size": 16, "vocab_size": len(tokenizer)}
    token = tokenizer.convert_tokens_to_ids("<image>")
    config = Blip2Config(
        vision_config=vision, qformer_config=former, text_config=text, num_query_tokens=4, image_token_index=token
    )
    torch.manual_seed(0)
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_captions_are_written_where_there_are_none(tmp_path, models, monkeypatch):
    (tmp_path / "pictures").mkdir()
    rows = [{"file_name": f"{i}.png", **({"text": "a cat"} if i == 1 else {})} for i in range(5)]
    for i, row in enumerate(rows):
        random_image(i).save(tmp_path / "pictures" / row["file_name"])
    (tmp_path / "pictures" / "metadata.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    caption = CaptionConfig(blip2(tmp_path / "blip2"), prompt="a photo of", length=4, batch=2)
    loaded, alive = Captioner.__init__, []
    monkeypatch.setattr(
        Captioner, "__init__", lambda self, settings: loaded(self, settings) or alive.append(weakref.ref(self))
    )
    monkeypatch.setattr(
        "a4a.data.prepare.encoding.load_pipeline", lambda *a, **k: alive.append(alive[0]()) or load_pipeline(*a, **k)
    )
    prepare(
        ImageFolder(str(tmp_path / "pictures")),
        tmp_path / "out",
        caption=caption,
        crop=Crop(SIDE),
        encode=encode(models),
        split=Split(0, 0),
        chunk=3,
    )
    texts = PreparedDataset(tmp_path / "out").column("text")
    assert texts[1] == "a cat"
    assert all(texts) and not any(t.startswith("a photo of") for t in texts)
    assert alive[1:] == [None]  # the captioner is gone before the models that encode are loaded


def test_the_prompt_is_removed_from_captions_as_the_tokenizer_decodes_it(tmp_path):
    """CLIP's writes small letters and single spaces."""
    ask = Captioner(CaptionConfig(blip2(tmp_path / "blip2"), length=4))
    (plain,) = ask([random_image(0)])
    ask.settings.prompt = "A  photo of"
    (asked,) = ask([random_image(0)])
    assert plain and asked and "photo" not in asked


def test_a_model_that_cannot_be_asked_for_captions_is_refused(tmp_path):
    from transformers import (
        BlipImageProcessorPil,
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
    )

    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 16,
        "patch_size": 8,
    }
    text = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50)
    VisionEncoderDecoderModel(
        VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**sizes), text)
    ).save_pretrained(tmp_path)
    BlipImageProcessorPil().save_pretrained(tmp_path)
    refuses("no processor of images and text together", Captioner(CaptionConfig(tmp_path)), [random_image(0)])


def test_images_smaller_than_the_crop_are_left_out_and_counted(photos, models, tmp_path, capsys):
    for name, size in (("a.png", 64), ("b.png", 40), ("c.png", 63)):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        random_image(ord(name[0]), size, 80).save(tmp_path / "pictures" / name)
    source, output = ImageFolder(str(tmp_path / "pictures")), tmp_path / "out"
    for check in (CheckConfig(32), None):
        shutil.rmtree(output, ignore_errors=True)
        prepare(source, output, check, Crop(64), encode=encode(models), split=Split(0, 0))
        lines, (warning, _) = report(output)
        assert lines == [
            {"id": "b.png", "left_out": "small: 40 x 80 pixels, for a crop of 64 x 64"},
            {"id": "c.png", "left_out": "small: 63 x 80 pixels, for a crop of 64 x 64"},
        ]
        assert warning.startswith("2 of 3 images are left out because they are smaller than the crop (b.png, c.png)")
        assert warning in capsys.readouterr().err
    refuses(
        "Nothing is left of 3 images .small: 3.*crop.enlarge",
        prepare,
        source,
        tmp_path / "no",
        None,
        Crop(96),
        encode=encode(models),
    )


def test_images_may_be_enlarged_and_keep_their_original_size(models, tmp_path):
    (tmp_path / "pictures").mkdir()
    for name, size in (("a.png", 64), ("b.png", 40)):
        random_image(ord(name[0]), size, 80).save(tmp_path / "pictures" / name)
    crop = Crop(64, enlarge=True)
    prepare(
        ImageFolder(str(tmp_path / "pictures")),
        tmp_path / "out",
        crop=crop,
        encode=encode(models),
        check=None,
        split=Split(0, 0),
    )
    lines, (warning, _) = report(tmp_path / "out")
    assert lines == [{"id": "b.png", "enlarged": "40 x 80 pixels, to 64 x 64"}]
    assert warning.startswith("1 of 2 images are smaller than the crop and enlarged (b.png)")
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert (counts["rows"], counts["enlarged"], counts["left_out"], counts["repaired"]) == (2, 1, 0, 0)
    batch = PreparedDataset(tmp_path / "out").batch(torch.arange(2))
    assert batch["original_size"].tolist() == [[80, 64], [80, 40]]
    assert batch["crop_top_left"].tolist() == [[8, 0], [32, 0]]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_hold_what_the_models_encode(photos, models, pixart, tmp_path):
    table = PreparedDataset(prepare_photos(photos, models, tmp_path / "p", split=Split(0, 0)))
    ids = table.column("id")[:7]  # the first shard
    images = [ImageOps.fit(Image.open(photos / name), (SIDE, SIDE), Image.Resampling.LANCZOS) for name in ids]
    batch = table.batch(torch.arange(7))
    torch.manual_seed(0)
    assert torch.allclose(
        batch["latents"].float(), backbone_for(pixart).encode_pixels(to_tensor(images) * 2 - 1), atol=2e-3
    )
    text = backbone_for(pixart).encode_text([""])
    assert torch.allclose(batch["text.states"].float(), text["states"].expand(7, -1, -1), atol=2e-3)
    assert batch["text.mask"].equal(text["mask"].expand(7, -1))
    assert torch.allclose(batch["embeds"].float(), CLIPImageEncoder.from_pretrained(models / "clip")(images), atol=2e-3)


def test_rows_tell_the_sizes_of_every_view(photos, models, tmp_path):
    crop = Crop(SIDE, views=2, flips=True)
    table = PreparedDataset(prepare_photos(photos, models, tmp_path / "p", crop=crop, split=Split(0, 0)))
    batch = table.batch(torch.arange(8))  # four views each of a square photo and of one that is half as wide again
    ids = table.column("id")[:2]
    views = [view for name in ids for view in crop(Image.open(photos / name), name)]
    assert batch["original_size"].tolist() == [[64, 64]] * 4 + [[64, 96]] * 4
    assert batch["crop_top_left"].tolist() == [list(view.crop_top_left) for view in views]
    assert len({tuple(row) for row in batch["crop_top_left"].tolist()}) > 4
    assert batch["target_size"].tolist() == [[SIDE, SIDE]] * 8


def test_tokens_of_an_encoder_are_stored_beside_pooled_embeddings(photos, models, tmp_path):
    encoders = EncodeConfig(models / "pixart", {"clip": models / "clip"}, {"plus": models / "clip"})
    output = prepare_photos(
        photos, models, tmp_path / "p", encode=encoders, crop=Crop(SIDE, flips=True), split=Split(0, 0)
    )
    encoder = CLIPImageEncoder.from_pretrained(models / "clip").with_output("tokens")
    tokens, pooled = (PreparedDataset(output, image_encoder=name, reference="view") for name in ("plus", "clip"))
    image = ImageOps.fit(Image.open(photos / tokens.column("id")[0]), (SIDE, SIDE), Image.Resampling.LANCZOS)
    expected = encoder([image, ImageOps.mirror(image)])
    assert expected.ndim == 3 and tokens.embed_shape == tuple(expected.shape[1:])
    assert tokens.image_embed_dim == expected.shape[-1] and pooled.embed_shape == (tiny_models.EMBED,)
    batch = tokens.batch(torch.arange(2))  # the target is the photo, then its mirror image; the reference the other
    assert torch.allclose(batch["embeds"].float(), expected.flip(0), atol=5e-3)
    assert tokens.references(3).shape == (3, *expected.shape[1:])
    assert torch.allclose(tokens.no_image.float(), encoder.unconditional(), atol=5e-3)
    assert pooled.no_image.shape == (1, tiny_models.EMBED) and not pooled.no_image.any()
    tokens.check(models / "pixart", models / "clip", "tokens")
    refuses(
        "has tokens embeddings by plus but the adapter takes pooled", tokens.check, models / "pixart", models / "clip"
    )
    refuses("token_encoders.plus", tokens.check, models / "pixart", models / "pixart", "tokens")
    refuses("both have the name 'clip'", EncodeConfig, models / "pixart", {"clip": "x"}, {"clip": "x"})


def test_references_are_embeddings_evenly_over_the_table(prepared):
    table = PreparedDataset(prepared)
    found, all_ = table.references(3), table.references(10**6)
    assert found.shape == (3, table.image_embed_dim) and len(all_) == len(table)
    for place, row in ((0, 0), (2, len(table) - 1)):
        assert torch.equal(found[place], table.batch(torch.tensor([row]))["embeds"][0].float())


def test_a_few_samples_can_be_shown_and_start_values_still_know_all(photos, prepared, pixart):
    table = PreparedDataset(prepared)
    few = few_samples(table, 3)
    assert isinstance(few, EncodedDataset) and len(few) == 3
    assert torch.equal(few.references(100), table.references(100))
    last = few.batch(torch.tensor([2]))
    assert all(torch.equal(t, last[name]) for name, t in table.batch(torch.tensor([len(table) - 1])).items())
    images, captions = few.examples(backbone_for(pixart))
    assert {image.size for image in images} == {(SIDE, SIDE)} and captions[2] == table.column("text")[-1]
    with torch.no_grad():
        pixels = pixart.vae.decode(last["latents"].float() / pixart.vae.config.scaling_factor).sample
    assert torch.allclose(to_tensor(images[2:]), (pixels / 2 + 0.5).clamp(0, 1), atol=1 / 255)


def test_every_image_is_in_one_split_and_subjects_stay_together(prepared):
    splits = {name: PreparedDataset(prepared, name) for name in ("train", "test")}
    subjects = {name: set(table.column("subject")) for name, table in splits.items()}
    assert not subjects["train"] & subjects["test"]
    counts = json.loads((prepared / "manifest.json").read_text())["counts"]
    assert counts["train"] + counts["validation"] + counts["test"] == counts["rows"] == 24
    assert len(splits["train"]) == counts["train"]
    assert splits["train"].size == SIDE


def test_references_are_the_same_view_another_view_or_another_photo(photos, models, tmp_path):
    output = prepare_photos(photos, models, tmp_path / "p", crop=Crop(SIDE, views=2, flips=True))
    same, view, subject = (PreparedDataset(output, reference=r) for r in ("same", "view", "subject"))
    assert len(same) == len(view) == len(subject) == 4 * len(same.column("id"))
    assert same.samples[:, :2].equal(same.samples[:, 2:])
    assert view.samples[:, 0].equal(view.samples[:, 2]) and (view.samples[:, 1] != view.samples[:, 3]).all()
    names, ids = subject.column("subject"), subject.column("id")
    for reference, _, target, _ in subject.samples.tolist():
        assert names[reference] == names[target] and ids[reference] != ids[target]
    first = same.batch(torch.arange(4))["latents"]
    assert len({tuple(row.flatten().tolist()) for row in first}) == 4


def test_buckets_never_mix_shapes(photos, models, tmp_path):
    table = PreparedDataset(prepare_photos(photos, models, tmp_path / "p", crop=Crop(32, buckets=True, divisibility=4)))
    shapes = {
        int(b): table.batch((table.buckets == b).nonzero()[:, 0])["latents"].shape[1:] for b in table.buckets.unique()
    }
    assert len(set(shapes.values())) == len(shapes) > 1
    mixed = [int((table.buckets == b).nonzero()[0]) for b in table.buckets.unique()]
    with pytest.raises(ValueError, match="buckets"):
        table.batch(torch.tensor(mixed))


def test_faces_are_encoded_and_images_without_one_are_left_out_of_them(models, tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        tiny_encoders.random_blocks(i, face=i != 2).save(tmp_path / "pictures" / f"{i}.png")
    options = {"crop": Crop(64), "split": Split(0, 0)}
    prepare(
        ImageFolder(str(tmp_path / "pictures")),
        tmp_path / "out",
        encode=encode(models, arcface=tiny_encoders.faces(tmp_path / "faces")),
        **options,
    )
    with pytest.raises(InputError, match="arcface, clip"):
        PreparedDataset(tmp_path / "out")
    assert len(PreparedDataset(tmp_path / "out", image_encoder="clip")) == 6
    faces = PreparedDataset(tmp_path / "out", image_encoder="arcface")
    assert len(faces) == 5
    assert not faces.batch(torch.arange(5))["embeds"].isnan().any()
    refuses("no command can generate with", faces.check, models / "pixart", models / "clip")


def test_an_actor_gives_the_same_rows(prepared, photos, models, tmp_path, monkeypatch):
    """What Ray does with a step, without Ray: it travels, and so do its chunks; an error comes back as its sentence."""

    def over(step, chunks, workers):
        actor = Actor(pickle.loads(pickle.dumps(step)))
        for chunk in reversed(chunks):  # in any order
            row = actor({"chunk": [pickle.dumps(chunk)]})
            assert row["error"] == [""]
            yield row["images"][0]

    monkeypatch.setattr("a4a.data.prepare.run.run_on_ray", over)
    assert contents(prepare_photos(photos, models, tmp_path / "p", ray=True)) == contents(prepared)
    (tmp_path / "file").write_text("in the way")
    broken = Actor(CheckStage(tmp_path / "file", SubjectFolders(str(photos)), CheckConfig(), Crop(SIDE)))
    assert "not a folder" in broken({"chunk": [pickle.dumps(Chunk(0, []))]})["error"][0]


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_same_rows(prepared, photos, models, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    try:
        output = prepare_photos(photos, models, tmp_path / "p", ray=True)
    except InputError as error:  # it gives its own processes half a minute to start
        if "could not be started" in str(error):
            pytest.skip(str(error))
        raise
    import ray

    ray.shutdown()
    assert contents(output) == contents(prepared)


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_loads_no_encoder_when_all_is_encoded(prepared, models, tmp_path, monkeypatch):
    from diffusers import AutoencoderKL
    from transformers import T5EncoderModel

    from a4a.training.config import TrainingConfig
    from a4a.transfer.config import IPAdapterConfig
    from a4a.transfer.run import transfer

    monkeypatch.setattr(CLIPImageEncoder, "from_pretrained", lambda *a, **k: pytest.fail("loaded the image encoder"))
    for kind in (AutoencoderKL, T5EncoderModel):
        monkeypatch.setattr(kind, "from_pretrained", lambda *a, **k: pytest.fail("loaded an encoder"))
    training = TrainingConfig(samples=4, batch_size=2, tensorboard=False)
    options = {"method": IPAdapterConfig(), "training": training}
    adapter = transfer(models / "pixart", PreparedDataset(prepared), models / "clip", tmp_path / "run", **options)
    assert adapter.image_embed_dim == tiny_models.EMBED and (tmp_path / "run" / "adapter").is_dir()


def test_a_vae_encodes_in_float32_where_its_configuration_asks_for_it(photos, models, tmp_path):
    """As SDXL's does, which overflows in float16; whatever the precision of the other models."""
    output = prepare_photos(photos, models, tmp_path / "p", encode=encode(models, precision="float16"), chunk=24)
    whole = PreparedDataset(prepare_photos(photos, models, tmp_path / "whole", chunk=24)).batch(torch.arange(4))
    half = PreparedDataset(output).batch(torch.arange(4))
    assert torch.equal(half["latents"], whole["latents"]) and not torch.equal(half["embeds"], whole["embeds"])
    pixart = tiny_models.pixart()
    for asked in (True, False):
        pixart.vae.register_to_config(force_upcast=asked)
        pixart.save_pretrained(tmp_path / f"{asked}")
        pipe = load_pipeline(tmp_path / f"{asked}", torch.bfloat16, "encoders", upcast_vae=True)
        assert pipe.vae.dtype == (torch.float32 if asked else torch.bfloat16)
        assert pipe.text_encoder.dtype == torch.bfloat16


def test_frozen_models_have_the_configured_precision(photos, models, tmp_path, monkeypatch):
    from a4a.data.image_folder import ImageFolderDataset
    from a4a.training.config import TrainingConfig
    from a4a.transfer.config import IPAdapterConfig, Precision
    from a4a.transfer.run import transfer

    loaded = []
    monkeypatch.setattr(
        CLIPImageEncoder,
        "__call__",
        lambda self, pictures: loaded.append(self.module.dtype) or torch.zeros(len(pictures), tiny_models.EMBED),
    )
    shutil.copytree(photos / "subject0", tmp_path / "pictures")
    (tmp_path / "pictures" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a cat"}')
    options = {
        "method": IPAdapterConfig(),
        "training": TrainingConfig(samples=1, batch_size=1, tensorboard=False),
    }
    encode_pixels = Backbone.encode_pixels
    monkeypatch.setattr(
        Backbone, "encode_pixels", lambda self, p: loaded.append(self.vae.dtype) or encode_pixels(self, p)
    )
    data = ImageFolderDataset(tmp_path / "pictures", SIDE)
    transfer(models / "pixart", data, models / "clip", tmp_path / "run", precision=Precision("bfloat16"), **options)
    assert loaded == [torch.float32, torch.bfloat16]


def test_the_projection_starts_whitened_over_the_references(prepared, models, sd15, tmp_path):
    from a4a.adapters import formats
    from a4a.training.config import TrainingConfig
    from a4a.training.denoising import LearningRates, ObjectiveConfig
    from a4a.transfer.run import transfer

    formats.write(tiny_models.ip_adapter(sd15), tmp_path / "source.safetensors")
    options = {"source": tmp_path / "source.safetensors", "objective": ObjectiveConfig(rates=LearningRates(0, 0, 0))}
    training = TrainingConfig(samples=2, batch_size=2, weight_decay=0.0, tensorboard=False)
    adapter = transfer(
        models / "pixart", PreparedDataset(prepared), models / "clip", tmp_path / "run", training=training, **options
    )
    features = adapter.source(PreparedDataset(prepared).references(4096))
    coupled = adapter.mapping.projections[0](features.keys)
    same = [i for i, maker in enumerate(adapter.source.to_k) if maker.out_features >= adapter.source.text_width]
    torch.testing.assert_close(coupled[:, same[0]], coupled[:, same[-1]], atol=5e-3, rtol=1e-2)


def test_a_run_starts_from_the_adapter_of_another(prepared, models, sd15, tmp_path, capsys):
    from a4a.adapters import formats
    from a4a.adapters.loading import load_adapter
    from a4a.cli.main import main

    formats.write(tiny_models.ip_adapter(sd15), tmp_path / "source.safetensors")
    common = ["transfer", "--model", str(models / "pixart"), "--image_encoder", str(models / "clip")]
    common += ["--data", str(prepared), "--training.samples", "2", "--training.batch_size", "2", "--method.rounds", "1"]
    source = ["--source", str(tmp_path / "source.safetensors")]
    assert main([*common, *source, "--output", str(tmp_path / "first")]) == 0
    first = ["--init", str(tmp_path / "first" / "checkpoints" / "last")]
    still = [f"--objective.rates.{name}=0" for name in ("projection", "mapping")]
    again = [*common, *first, *still, "--training.seed", "1", "--training.weight_decay", "0"]
    assert main([*again, "--output", str(tmp_path / "again")]) == 0
    before, after = (load_adapter(tmp_path / run / "adapter").state_dict() for run in ("first", "again"))
    assert all(torch.equal(t, after[name]) for name, t in before.items())
    assert f"began from `{first[1]}`" in (tmp_path / "again" / "adapter" / "README.md").read_text()

    capsys.readouterr()
    assert main([*common, *first, "--method", "IPAdapterConfig", "--output", str(tmp_path / "other")]) == 2
    assert "of the class A4A, but the method trains IPAdapter" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_prepared_data_can_be_named_on_the_command_line(prepared, models, tmp_path):
    from a4a.cli.main import main

    arguments = [
        "transfer",
        "--model",
        str(models / "pixart"),
        "--image_encoder",
        str(models / "clip"),
        "--method",
        "IPAdapterConfig",
    ]
    arguments += [
        "--data",
        "a4a.data.PreparedDataset",
        "--data.init_args.path",
        str(prepared),
        "--training.samples",
        "2",
        "--training.batch_size",
        "2",
    ]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 0


def test_from_photos_without_captions_to_scores_of_subjects_kept_apart(photos, prepared, models, tmp_path):
    """Check, split, encode; train two steps; score on the test split's subjects."""
    from a4a.evaluation.evaluate import evaluate
    from a4a.evaluation.generation import Sampling
    from a4a.evaluation.methods import HeldOutPhoto, ImagePromptMethod
    from a4a.evaluation.metrics import CLIPImageScore
    from a4a.evaluation.tasks.prepared import PreparedTask
    from a4a.training.config import TrainingConfig
    from a4a.transfer.config import IPAdapterConfig
    from a4a.transfer.run import transfer

    training = TrainingConfig(samples=4, batch_size=2, tensorboard=False)
    transfer(
        models / "pixart",
        PreparedDataset(prepared),
        models / "clip",
        tmp_path / "run",
        method=IPAdapterConfig(),
        training=training,
    )
    (tmp_path / "prompts.txt").write_text("a photo of {subject}\n")
    task = PreparedTask(prepared, prompts=tmp_path / "prompts.txt", generations=1)
    assert task.prompts == [f"a photo of {subject}" for subject in task.subjects]
    assert set(task.subjects) == set(PreparedDataset(prepared, split="test").column("subject"))
    assert not set(task.subjects) & set(PreparedDataset(prepared).column("subject"))
    ours = ImagePromptMethod(
        str(models / "pixart"),
        str(tmp_path / "run" / "adapter"),
        str(models / "clip"),
        sampling=Sampling(steps=1, size=SIDE),
    )
    evaluate(
        task,
        {"ours": ours, "a second photo": HeldOutPhoto()},
        [CLIPImageScore(str(models / "clip"))],
        tmp_path / "scores",
    )
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert {"ours", "a second photo"} <= set(json.dumps(scores).replace('"', ",").split(","))


# --- kept images ------------------------------------------------------------------------------------------------------


def as_pixels(image):
    return np.asarray(image, float)


def test_images_of_held_out_subjects_are_kept_as_they_are_encoded_in_a_folder_for_each(prepared, photos):
    held_out = {split: read_kept_images(prepared, split) for split in ("validation", "test")}
    assert not (prepared / "images" / "train").exists()
    for split, images in held_out.items():
        assert {image.id for image in images} == set(PreparedDataset(prepared, split=split).column("id"))
        for image in images:
            original = ImageOps.fit(Image.open(photos / image.id), (SIDE, SIDE), Image.Resampling.LANCZOS)
            kept = Image.open(split_folder(prepared, split) / image.file_name)
            assert image.file_name.startswith(f"{image.subject}/") and kept.size == (SIDE, SIDE)
            assert np.abs(as_pixels(kept) - as_pixels(original)).mean() < 8  # of noise, the worst for JPEG


def test_a_later_run_keeps_another_split_and_encodes_nothing_again(copied, photos, models, monkeypatch):
    from a4a.data import ImageFolderDataset

    before = contents(copied)
    monkeypatch.setattr("a4a.data.prepare.encode_stage.EncodeStage.__call__", None)
    prepare_photos(photos, models, copied, keep_images=["train"])
    kept = read_kept_images(copied, "train")
    assert before.items() <= contents(copied).items()
    assert {image.subject for image in kept} == set(PreparedDataset(copied).column("subject"))
    assert len(ImageFolderDataset(split_folder(copied, "train"), SIDE)) == len(kept)


def test_photos_without_subjects_are_a_task_of_one_crop_each_with_their_captions(tmp_path):
    from a4a.evaluation.tasks.prepared import PreparedTask

    records = [
        ImageRecord(f"photo{i}/box/{crop}", f"thing {i}.{crop}", group=f"photo{i}") for i in range(6) for crop in "ab"
    ]
    prepare(Drawn(records), tmp_path / "p", crop=Crop(SIDE), split=Split(0, 0.5), check=None)
    task = PreparedTask(tmp_path / "p", generations=2, subjects=2)
    assert len(set(task.subjects)) == 2
    assert task.prompts == [f"thing {name.removeprefix('photo')}.a" for name in task.subjects for _ in range(2)]
    (tmp_path / "named.txt").write_text("a {subject}")
    for words, options in (
        ("no name of a subject for photo", {"prompts": tmp_path / "named.txt"}),
        ("run the same a4a prepare again with --keep_images train", {"split": "train"}),
        ("no images in the validation split", {"split": "validation"}),
    ):
        refuses(words, PreparedTask, tmp_path / "p", **options)
    with pytest.raises(InputError, match="one photo, its reference"):
        task.held_out_photo(0)


@pytest.mark.parametrize(
    ("id_", "subject", "file_name"),
    [
        ("tom/1.jpg", "tom", r"tom/1\.jpg"),
        ("7.png", None, r"7\.png/7\.png\.jpg"),
        ("../x", "..", r"-[0-9a-f]{8}/x\.jpg"),
        ("a b/1.jpg", "a b", r"a-b-[0-9a-f]{8}/1\.jpg"),
        ("a-b/" + "x" * 300, "a-b", r"a-b/x{100}-[0-9a-f]{8}\.jpg"),
    ],
)
def test_names_of_kept_images_are_ones_that_every_file_system_takes(id_, subject, file_name):
    assert re.fullmatch(file_name, KeptImage.of(ImageRecord(id_, subject=subject)).file_name)


# --- captions ---------------------------------------------------------------------------------------------------------


def test_images_without_captions_are_counted_and_announced(photos, models, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "subject0" / "0.txt").write_text("a caption")
    prepare_photos(tmp_path / "photos", models, tmp_path / "p", encode=None)
    announced = capsys.readouterr().err
    assert "23 of 24 images have no caption" in announced and "--caption.model" in announced
    ((warning,), counts) = (
        report(tmp_path / "p")[1],
        json.loads((tmp_path / "p" / "manifest.json").read_text())["counts"],
    )
    assert warning in announced and counts["without_caption"] == 23


def test_with_all_captions_nothing_is_announced(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        random_image(i).save(tmp_path / "photos" / f"{i}.png")
        (tmp_path / "photos" / f"{i}.txt").write_text("a caption")
    prepare(ImageFolder(str(tmp_path / "photos")), tmp_path / "p", crop=Crop(SIDE))
    assert "Warning" not in capsys.readouterr().err and report(tmp_path / "p")[1] == []


def test_a_small_set_has_a_subject_in_every_split(photos, models, tmp_path):
    prepare_photos(photos, models, tmp_path / "p", encode=None, split=Split(0.01, 0.01))
    counts = json.loads((tmp_path / "p" / "manifest.json").read_text())["counts"]
    assert (counts["train"], counts["validation"], counts["test"]) == (18, 3, 3)
    assert len({image.subject for image in read_kept_images(tmp_path / "p", "test")}) == 1


# --- bad input --------------------------------------------------------------------------------------------------------


def refuses(words, function, *arguments, **options):
    """Asserts that a call raises an InputError of one line that matches `words`; returns it."""
    with pytest.raises(InputError, match=words) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_size_model_or_data_is_refused_with_the_difference(prepared, copied, photos, models, tmp_path):
    refuses("crop.size = 16, not 32", prepare_photos, photos, models, copied, crop=Crop(32))
    refuses(
        "encode.model",
        prepare_photos,
        photos,
        models,
        copied,
        encode=EncodeConfig(models / "sd15", {"clip": models / "clip"}),
    )
    refuses("split.test = 0.2, not 0.1", prepare_photos, photos, models, copied, split=Split(0.2, 0.1))
    more = shutil.copytree(photos, tmp_path / "more")
    random_image(999).save(more / "subject0" / "9.png")
    refuses("data = 24 images.*25 images", prepare_photos, more, models, copied)
    refuses("encode.model .*sd15", PreparedDataset(prepared).check, models / "sd15", models / "clip")
    refuses("image_encoders.clip", PreparedDataset(prepared).check, models / "pixart", models / "pixart")
    moved = shutil.copytree(models / "pixart", tmp_path / "moved")
    PreparedDataset(prepared).check(moved, models / "clip")


def test_reference_modes_that_the_data_lack_are_refused(prepared, photos, models, tmp_path):
    refuses("one view of each photo", PreparedDataset, prepared, reference="view")
    prepare(ImageFolder(str(photos)), tmp_path / "p", crop=Crop(SIDE), encode=encode(models))
    refuses("without subjects.*such as SubjectFolders", PreparedDataset, tmp_path / "p", reference="subject")


def test_a_folder_with_other_files_is_refused_and_left_unchanged(photos, models, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    refuses("something else", prepare_photos, photos, models, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_runs_do_not_work_in_one_folder(copied, photos, models):
    with FileLock(copied / "lock"):
        refuses("Another a4a prepare", prepare_photos, photos, models, copied)
    prepare_photos(photos, models, copied)


def test_a_shard_cut_short_is_named(copied):
    file = next(copied.glob("shards/*/rows.arrow"))
    file.write_bytes(file.read_bytes()[:-100])
    assert str(file) in refuses("cut short", PreparedDataset, copied)


def test_a_shard_that_is_gone_or_changed_is_named(copied):
    file = next(copied.glob("shards/*/text.arrow"))
    content = file.read_bytes()
    file.write_bytes(content[:-20] + bytes(20))
    refuses("no Arrow file", PreparedDataset, copied)
    refuses("another content", PreparedDataset, copied, verify=True)
    file.unlink()
    refuses("not there", PreparedDataset, copied)


def test_a_manifest_that_does_not_fit_is_named(copied):
    file = copied / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["shards"][0]["rows"] += 1
    file.write_text(json.dumps(manifest))
    refuses("has 8 rows, it has 7", PreparedDataset, copied)
    file.write_text(json.dumps({**manifest, "format": 99}))
    refuses("format 99", PreparedDataset, copied)
    file.write_text("{")
    refuses("no manifest", PreparedDataset, copied)
    file.unlink()
    refuses("not finished", PreparedDataset, copied)
    refuses("There is no", PreparedDataset, copied / "gone")


def test_a_subject_in_two_splits_is_named(copied):
    folder = sorted(copied.glob("shards/*"))[0]
    words, _ = shards.read(folder / "rows.arrow", ["id", "text", "subject", "group", "split", "bucket", "line"], [])
    import pyarrow as pa

    with pa.OSFile(str(folder / "rows.arrow")) as stream:
        table = pa.ipc.open_file(stream).read_all()
    other = ["test" if s == "train" else "train" for s in words["split"][:1]] + words["split"][1:]
    table = table.set_column(table.column_names.index("split"), "split", pa.array(other))
    with (folder / "rows.arrow").open("wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["shards"][0]["files"]["rows.arrow"]["bytes"] = (folder / "rows.arrow").stat().st_size
    (copied / "manifest.json").write_text(json.dumps(manifest))
    refuses(f"The subject {words['group'][0]!r} is in", PreparedDataset, copied)


def test_a_full_disk_gives_one_sentence_and_leaves_whole_shards(photos, models, full_disk):
    refuses("disk is full", prepare_photos, photos, models, full_disk / "p", crop=Crop(128, enlarge=True), chunk=3)
    left = [p.name for p in (full_disk / "p").rglob("*") if p.name.startswith(".")]
    assert left == [] and not (full_disk / "p" / "manifest.json").exists()


def test_options_out_of_range_and_empty_results_are_refused(photos, models, tmp_path):
    refuses("chunk is 0", prepare_photos, photos, models, tmp_path / "a", chunk=0)
    refuses("crop.size is 4", Crop, 4)
    refuses("split.test 0.7", Split, 0.5, 0.7)
    refuses(
        "Nothing is left of 24 images .tiny: 24",
        prepare_photos,
        photos,
        models,
        tmp_path / "b",
        check=CheckConfig(1000),
    )
    refuses("nothing to train on", PreparedDataset, prepare_photos(photos, models, tmp_path / "c", encode=None))
    refuses("no data folder", prepare, ImageFolder(str(tmp_path / "gone")), tmp_path / "d")


def test_few_files_are_open_and_all_are_closed(prepared):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        table = PreparedDataset(prepared)
        for rows in torch.arange(len(table)).split(4):
            table.batch(rows)
        assert len(os.listdir("/proc/self/fd")) <= before + shards.MAX_OPEN_FILES
        del table
    assert len(os.listdir("/proc/self/fd")) == before
    assert np.isfinite(PreparedDataset(prepared).batch(torch.tensor([0]))["latents"].numpy()).all()
