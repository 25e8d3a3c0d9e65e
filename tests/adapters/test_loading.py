"""Loading and inspecting adapters by path, hub name or zoo:NAME; model cards."""

import shutil

import pytest
import torch

import tiny_models
from a4a.adapters import formats
from a4a.adapters.a4a import A4A
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.loading import load_adapter
from a4a.cli.inspect import inspect_facts
from a4a.errors import InputError


@pytest.fixture
def adapter(sd15, pixart):
    return tiny_models.a4a(tiny_models.ip_adapter(sd15), pixart)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Puts a folder where the hub's library keeps what it downloaded of a repository."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder, repo, inside="."):
        kept, commit = tmp_path / "hub" / f"models--{repo.replace('/', '--')}", "0" * 40
        shutil.copytree(folder, kept / "snapshots" / commit / inside)
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text(commit)

    return put


def same(a, b):
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


@pytest.mark.parametrize("inside", [".", "adapters/pixart"])
def test_an_adapter_on_the_hub_is_loaded_and_inspected_by_its_name(adapter, publish, tmp_path, inside):
    adapter.save_pretrained(tmp_path / "saved")
    publish(tmp_path / "saved", "me/sd15-to-pixart", inside)
    name = "me/sd15-to-pixart" if inside == "." else f"me/sd15-to-pixart/{inside}"
    found = load_adapter(name)
    assert isinstance(found, A4A) and same(found, adapter)
    assert inspect_facts(name)["kind"] == "A4A, a transferred adapter"


def test_a_published_checkpoint_on_the_hub_is_loaded_and_inspected_by_its_name(sd15, publish, tmp_path):
    formats.write(tiny_models.ip_adapter(sd15), tmp_path / "models" / "a.safetensors")
    publish(tmp_path / "models", "me/repo", "models")
    assert load_adapter("me/repo/models/a.safetensors").tokens == 4
    assert inspect_facts("me/repo/models/a.safetensors")["kind"] == "IP-Adapter, base family"


def test_a_model_on_the_hub_is_inspected_by_its_name(pixart, publish, tmp_path):
    pixart.save_config(tmp_path / "model")
    pixart.transformer.save_config(tmp_path / "model" / "transformer")
    here = inspect_facts(str(tmp_path / "model"))
    publish(tmp_path / "model", "me/pixart")
    assert inspect_facts("me/pixart") == {**here, "path": "me/pixart"}
    assert here["kind"] == "PixArtAlphaPipeline with PixArtTransformer2DModel" and here["sites"] == 3


@pytest.mark.parametrize("function", [load_adapter, inspect_facts])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("me/none", "There is no me/none here, and the hub gave no .*config.json of that name"),
        ("me/none/folder", "There is no me/none/folder here, and the hub gave no .*config.json of that name"),
        ("none", "There is no adapter or model folder none; give one"),
        ("./none", "There is no adapter or model folder ./none; give one"),
        ("none.safetensors", "There is no adapter file none.safetensors"),
    ],
)
def test_a_name_that_is_neither_here_nor_on_the_hub_is_refused_in_one_sentence(function, name, message):
    with pytest.raises(InputError, match=message) as caught:
        function(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["runs/mine/adapter", "runs/mine", "runs/mine/a.safetensors", "/nowhere/adapter"])
def test_a_local_path_that_does_not_exist_is_refused_without_asking_the_hub(tmp_path, monkeypatch, name):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^There is no adapter.* {name}; give") as caught:
        load_adapter(name)
    assert "here, and the hub" not in str(caught.value)


def test_every_way_to_load_an_adapter_agrees(tmp_path, sd15):
    formats.write(tiny_models.ip_adapter(sd15), tmp_path / "a.safetensors")
    for kind, name in ((A4A, "zoo:a4a-plus-pixart-mini"), (IPAdapter, str(tmp_path / "a.safetensors"))):
        assert same(kind.from_pretrained(name), load_adapter(name))
        half, dtype = (
            kind.from_pretrained(name, torch_dtype=torch.float16),
            torch.float32 if kind is A4A else torch.float16,
        )
        assert half.dtype == load_adapter(name, torch_dtype=torch.float16).dtype == dtype
    assert load_adapter("zoo:a4a-plus-pixart-mini").dtype == torch.float32
    with pytest.raises(InputError, match="is an adapter of the class A4A, not IPAdapter"):
        IPAdapter.from_pretrained("zoo:a4a-plus-pixart-mini")


def test_inspect_names_the_part_that_a_pipeline_lacks(pixart, tmp_path):
    (tmp_path / "transformer").mkdir()
    pixart.save_config(tmp_path)
    with pytest.raises(InputError, match=r"no whole pipeline: its transformer has no config\.json"):
        inspect_facts(str(tmp_path))


# --- model cards ---------------------------------------------------------------------------------------------------


def test_a_saved_adapter_has_a_model_card(adapter, tmp_path):
    adapter.set_image_encoder("h94/IP-Adapter/models/image_encoder")
    adapter.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "library_name: a4a" in card and "transferred from an IP-Adapter by A4A" in card
    assert f"| for | {len(adapter.sites)} attention layers" in card
    assert 'CLIPImageEncoder.from_pretrained("h94/IP-Adapter/models/image_encoder")' in card
    assert "base_model" not in card and "training samples" not in card and "None" not in card


def test_the_model_card_has_a_placeholder_where_only_the_kind_of_encoder_is_known(sd15, tmp_path):
    adapter = tiny_models.ip_adapter(sd15)
    adapter.set_image_encoder("CLIP ViT-H/14")
    adapter.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert (
        "| image encoder | `CLIP ViT-H/14`" in card and 'CLIPImageEncoder.from_pretrained("its/image/encoder")' in card
    )
    assert "It is an IP-Adapter." in card


def test_saving_keeps_a_model_card_that_is_already_there(adapter, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    adapter.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
