"""Published models as the hub has them, through every command: from folders, and by name from a local cache."""

import json
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import sentencepiece
import yaml
from PIL import Image
from safetensors.torch import load_file

import hub_layouts
from a4a.adapters.meta import load_meta_adapter
from a4a.backbones import backbone_for, load_pipeline
from a4a.cli.main import main
from a4a.encoders.arcface import ArcFace
from a4a.encoders.clip import CLIPImageEncoder
from a4a.evaluation.methods import load_for_inference
from hub_layouts import ALPHA, BLIP2, H94, SD15, SDXL, SIGMA

SIDE = 64


@dataclass(frozen=True)
class Walk:
    """A model, the adapter that is transferred to it, and what of the image encoder that adapter takes."""

    model: str
    source: str
    image_encoder: str
    encoders: str = "image_encoders"
    """The option of `a4a prepare` that names the image encoder."""


SITES = {ALPHA: 2, SIGMA: 2, SD15: 16, SDXL: 17}
WALKS = [
    Walk(ALPHA, "models/ip-adapter_sd15.safetensors", "models/image_encoder"),
    Walk(SIGMA, "models/ip-adapter-plus_sd15.bin", "models/image_encoder", "token_encoders"),
    Walk(SD15, "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors", "models/image_encoder", "token_encoders"),
    Walk(SDXL, "sdxl_models/ip-adapter_sdxl.bin", "sdxl_models/image_encoder"),
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder for each published model, under its hub name."""
    folder = tmp_path_factory.mktemp("hub")
    for name, build in {**hub_layouts.MODELS, BLIP2: hub_layouts.blip2}.items():
        (folder / name).mkdir(parents=True)
        build(folder / name)
    hub_layouts.ip_adapter(folder / H94, folder / SD15, folder / SDXL)
    return folder


@pytest.fixture(scope="module")
def cache(hub, tmp_path_factory):
    """The same models in a local cache of the hub."""
    folder = tmp_path_factory.mktemp("cache")
    for name in (*hub_layouts.MODELS, BLIP2, H94):
        hub_layouts.add_to_cache(folder, name, hub / name)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photos each of four subjects; only the first has a caption."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for s in range(4):
        (folder / f"cat{s}").mkdir()
        for v in range(2):
            blocks = random.integers(0, 256, (4, 4, 3), np.uint8).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
            Image.fromarray(blocks).save(folder / f"cat{s}" / f"{v}.png")
        (folder / f"cat{s}" / "0.txt").write_text("a cat")
    return folder


@pytest.fixture(params=["folder", "name"])
def place(request, hub, cache, tmp_path, monkeypatch):
    """What to write before a hub name: the folder that holds the models, or nothing, where the cache has them."""
    monkeypatch.chdir(tmp_path)
    if request.param == "folder":
        return f"{hub}/"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return ""


def a4a(*words):
    assert main([str(word) for word in words]) == 0


def facts(capsys, *words):
    capsys.readouterr()
    a4a(*words, "--json")
    return json.loads(capsys.readouterr().out)


def recipe(path, **content):
    Path(path).write_text(yaml.safe_dump(content))
    return path


def instance(kind, **options):
    return {"class_path": kind, "init_args": options}


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.model.partition("/")[2])
def test_a_published_model_goes_through_every_command(walk, place, photos, capsys):
    model, source, encoder = place + walk.model, f"{place}{H94}/{walk.source}", f"{place}{H94}/{walk.image_encoder}"
    found = facts(capsys, "inspect", model)
    assert found["sites"] == SITES[walk.model] and ("PixArtTransformer2DModel" in found["kind"]) == ("PixArt" in model)
    assert facts(capsys, "inspect", source)["transferable"]

    data = {
        "source": instance("SubjectFolders", path=str(photos)),
        "output": "data",
        "crop": {"size": SIDE},
        "caption": {"model": place + BLIP2, "length": 4},
        "encode": {"model": model, walk.encoders: {"clip": encoder}},
        "split": {"validation": 0.0, "test": 0.25},
    }
    a4a("prepare", "--config", recipe("prepare.yaml", **data))
    counts = json.loads(Path("data/manifest.json").read_text())["counts"]
    assert counts["rows"] == 8 and counts.get("without_caption", 0) == 0

    training = {
        "model": model,
        "source": source,
        "image_encoder": encoder,
        "output": "run",
        "data": instance("a4a.data.PreparedDataset", path="data"),
        "method": instance("A4AConfig", rounds=1, heads=1),
        "training": {"samples": 4, "batch_size": 2, "mixed_precision": "no"},
        "precision": {"frozen": "float32"},
    }
    recipe("transfer.yaml", **training)
    if place:  # under its name a published model is planned without its files: tests/transfer/test_plan.py
        assert facts(capsys, "plan", "--config", "transfer.yaml")["largest batch in 80 GB"] > 0
    a4a("transfer", "--config", "transfer.yaml")

    draw = ["--model", model, "--image", photos / "cat0" / "0.png", "--prompt", "a cat", "--output", "images"]
    a4a("generate", "--adapter", "run/adapter", *draw, "--steps", 2, "--height", SIDE, "--width", SIDE)
    assert Image.open("images/reference00-prompt00-seed0.png").size == (SIDE, SIDE)
    assert ("took them for unsafe" in capsys.readouterr().out) == (walk.model == SD15)

    Path("prompts.txt").write_text("a photo of {subject}\n")
    task = {"path": "data", "split": "test", "prompts": "prompts.txt", "generations": 1, "subjects": 1}
    sampling = {"steps": 2, "size": SIDE}
    scores = {
        "task": instance("a4a.evaluation.PreparedTask", **task),
        "metrics": [instance("a4a.evaluation.CLIPImageScore", model="zoo:clip-large")],
        "methods": {
            "A4A": instance("a4a.evaluation.ImagePromptMethod", model=model, adapter="run/adapter", sampling=sampling),
            "reference": {"class_path": "a4a.evaluation.CopyReference"},
        },
    }
    a4a("evaluate", "--config", recipe("evaluate.yaml", **scores), "--output", "scores")
    drawn = [np.asarray(Image.open(file)) for file in Path("scores").rglob("*.png") if "A4A" in str(file)]
    assert drawn and all(image.any() for image in drawn)  # none blackened


@pytest.mark.parametrize("name", sorted(hub_layouts.MODELS))
def test_every_published_weight_is_loaded(hub, name):
    pipe = load_pipeline(hub / name)
    for part in ("text_encoder", "text_encoder_2", "safety_checker", "transformer", "unet", "vae"):
        if getattr(pipe, part, None) is None:
            continue
        found = values(getattr(pipe, part).state_dict())
        files = sorted((hub / name / part).glob("*.safetensors"))
        published = values({n: t for file in files if ".fp16." not in file.name for n, t in load_file(file).items()})
        assert found == published, part


def test_every_published_weight_of_an_image_encoder_is_loaded(hub):
    folder = hub / H94 / "models" / "image_encoder"
    encoder = CLIPImageEncoder.from_pretrained(folder)
    assert values(encoder.module.state_dict()) == values(load_file(folder / "model.safetensors"))
    assert encoder.processor.crop_size["height"] == 224  # CLIP's own: the folder has no preprocessor file


def values(tensors):
    """Sums of the tensors, whatever their names; without the buffer that transformers no longer has."""
    sums = {n: round(t.double().abs().sum().item(), 3) for n, t in tensors.items() if not n.endswith("position_ids")}
    return Counter(sums.values())


def test_published_tokenizers_are_read_as_they_were_trained(hub):
    alpha, sdxl = load_pipeline(hub / ALPHA, parts="encoders"), load_pipeline(hub / SDXL, parts="encoders")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(hub / ALPHA / "tokenizer" / "spiece.model"))
    text = "a large creature on a beach"
    assert alpha.tokenizer(text).input_ids == [*pieces.encode(text), 1]
    vocabulary = json.loads((hub / SDXL / "tokenizer" / "vocab.json").read_text())
    words = [vocabulary[word] for word in ("<|startoftext|>", "the</w>", "cat</w>", "<|endoftext|>")]
    padded = [sdxl.tokenizer(text, padding="max_length", max_length=5).input_ids for text in ("the cat", "The CAT")]
    assert padded == [[*words, words[-1]]] * 2
    assert sdxl.tokenizer_2("the cat", padding="max_length", max_length=5).input_ids == [*words, vocabulary["!"]]


def test_the_safety_checker_is_left_out_where_a_method_is_scored(hub):
    assert load_pipeline(hub / SD15).safety_checker is not None
    assert load_for_inference(str(hub / SD15)).safety_checker is None
    assert backbone_for(load_pipeline(hub / SD15, parts="encoders")).encoders.keys() == {"text_encoder", "vae"}


@pytest.mark.parametrize("file", [f for f in hub_layouts.adapters.FILES if "plus" in f])
def test_a_published_adapter_is_planned_from_its_file(hub, file):
    for suffix in (".safetensors", ".bin"):
        adapter = load_meta_adapter(hub / H94 / f"{file}{suffix}")
        assert adapter.device.type == "meta" and adapter.encoder_output == "tokens"


def test_the_zip_of_antelopev2_scores_faces(tmp_path):
    pytest.importorskip("insightface")
    pytest.importorskip("onnx")
    hub_layouts.antelopev2(tmp_path / "antelopev2.zip")
    zipfile.ZipFile(tmp_path / "antelopev2.zip").extractall(tmp_path / "models" / "antelopev2")
    face = np.zeros((SIDE, SIDE, 3), np.uint8)
    face[24:40, 24:40, 1] = 255  # what the tiny detector takes for a face
    encoder = ArcFace(tmp_path / "models" / "antelopev2")
    found = encoder([Image.fromarray(face), Image.new("RGB", (SIDE, SIDE))])
    assert found.shape == (2, encoder.image_embed_dim)
    assert found[0].norm().item() == pytest.approx(1) and found[1].isnan().all()
