"""Published checkpoints: parity with diffusers, reading and writing, damaged files."""

import errno
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

import a4a
import tiny_models
from a4a.adapters import formats
from a4a.adapters.base import sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.projections.base import UNSUPPORTED, projection_families
from a4a.backbones.unet import SD15, SDXL, UNet
from a4a.errors import InputError
from a4a.pipeline import ImagePromptPipeline

FORMATS = pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
UNETS = pytest.mark.parametrize("model", ["sd15", "sdxl"])


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def diffusers_embeds(positive):
    """[2, 1, image_embed_dim] for guidance: zeros for "no image", as diffusers gives, then the reference."""
    return [torch.cat([torch.zeros_like(positive), positive])[:, None]]


# --- parity with diffusers -----------------------------------------------------------------------------------------


@UNETS
@FORMATS
def test_diffusers_loads_what_we_write_and_generates_the_same_images(request, tmp_path, model, suffix):
    pipe = tiny_models.with_own_denoiser(request.getfixturevalue(model))
    adapter, reference = tiny_models.ip_adapter(pipe), tiny_models.embeds()
    formats.write(adapter, tmp_path / f"adapter{suffix}", torch.float32)
    plain = tiny_models.call(pipe)
    ours = tiny_models.call(ImagePromptPipeline(pipe, adapter), image_prompt_embeds=reference)
    weaker = tiny_models.call(ImagePromptPipeline(pipe, adapter), image_prompt_embeds=reference, image_prompt_scale=0.4)

    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name=f"adapter{suffix}", image_encoder_folder=None)
    theirs = tiny_models.call(pipe, ip_adapter_image_embeds=diffusers_embeds(reference))
    pipe.set_ip_adapter_scale(0.4)
    theirs_weaker = tiny_models.call(pipe, ip_adapter_image_embeds=diffusers_embeds(reference))
    pipe.unload_ip_adapter()

    assert (ours - plain).abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weaker, theirs_weaker, atol=1e-5, rtol=1e-5)
    assert torch.equal(tiny_models.call(pipe), plain)


@UNETS
def test_decoded_images_equal_those_of_diffusers_without_guidance(request, tmp_path, model):
    pipe = tiny_models.with_own_denoiser(request.getfixturevalue(model))
    adapter, reference = tiny_models.ip_adapter(pipe, seed=3), tiny_models.embeds(seed=3)
    formats.write(adapter, tmp_path / "adapter.safetensors", torch.float32)
    options = {"guidance_scale": 1.0, "output_type": "np"}
    ours = tiny_models.call(ImagePromptPipeline(pipe, adapter), image_prompt_embeds=reference, **options)
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name="adapter.safetensors", image_encoder_folder=None)
    theirs = tiny_models.call(pipe, ip_adapter_image_embeds=[reference[:, None]], **options)
    torch.testing.assert_close(torch.from_numpy(ours), torch.from_numpy(theirs), atol=1e-5, rtol=1e-5)


@UNETS
def test_layers_are_numbered_as_diffusers_lists_attention_processors(request, model):
    pipe = request.getfixturevalue(model)
    listed = list(pipe.unet.attn_processors)
    for i, site in enumerate(tiny_models.ip_adapter(pipe).sites):
        assert listed[2 * i + 1] == f"{site.name}.processor"


# --- reading and writing -------------------------------------------------------------------------------------------


@FORMATS
def test_a_written_adapter_is_read_back_unchanged(sd15, tmp_path, suffix):
    adapter = tiny_models.ip_adapter(sd15)
    formats.write(adapter, tmp_path / f"a{suffix}", torch.float32)
    again = formats.read(tmp_path / f"a{suffix}")
    assert same(again.state_dict(), adapter.state_dict())
    assert (again.tokens, again.image_embed_dim) == (adapter.tokens, adapter.image_embed_dim)
    assert [s.width for s in again.sites] == [s.width for s in adapter.sites]
    assert [s.name for s in again.sites] == [str(2 * i + 1) for i in range(16)]
    features, expected = again(tiny_models.embeds(2)), adapter(tiny_models.embeds(2))
    assert all(map(torch.equal, features.keys + features.values, expected.keys + expected.values))


def test_files_are_written_in_half_precision_by_default(sd15, tmp_path):
    formats.write(tiny_models.ip_adapter(sd15), tmp_path / "a.safetensors")
    assert {t.dtype for t in load_file(tmp_path / "a.safetensors").values()} == {torch.float16}


def test_a_folder_with_one_adapter_is_read(sd15, tmp_path):
    formats.write(tiny_models.ip_adapter(sd15), tmp_path / "folder" / "a.safetensors")
    assert formats.read(tmp_path / "folder").tokens == 4


@FORMATS
def test_the_prefix_adapter_modules_is_accepted(sd15, tmp_path, suffix):
    adapter = tiny_models.ip_adapter(sd15)
    image_proj, layers = halves(adapter)
    if suffix == ".bin":
        torch.save({"image_proj": image_proj, "adapter_modules": layers}, tmp_path / "a.bin")
    else:
        save_file(
            {f"image_proj.{k}": t for k, t in image_proj.items()}
            | {f"adapter_modules.{k}": t for k, t in layers.items()},
            tmp_path / "a.safetensors",
        )
    assert same(formats.read(tmp_path / f"a{suffix}").state_dict(), adapter.state_dict())


@pytest.mark.parametrize(
    ("image_embed_dim", "encoder"),
    [(1024, "CLIP ViT-H/14"), (1280, "CLIP ViT-bigG/14"), (24, "an image encoder with embeddings of width 24")],
)
def test_the_image_encoder_follows_from_the_width(tmp_path, image_embed_dim, encoder):
    formats.write(
        IPAdapter([["a", 8, 0.0], ["b", 8, 1.0]], tiny_models.base_projection(image_embed_dim, 16)),
        tmp_path / "a.safetensors",
    )
    assert formats.read(tmp_path / "a.safetensors").image_encoder == encoder


@pytest.mark.parametrize("config", [SD15, SDXL], ids=["sd15", "sdxl"])
def test_depths_from_widths_are_those_of_the_published_unets(config):
    with torch.device("meta"):
        sites = UNet.find_sites(UNet2DConditionModel(**config))
    assert formats.execution_depths([s.width for s in sites]) == pytest.approx([s.depth for s in sites])


@UNETS
def test_depths_from_widths_are_those_of_the_tiny_unets(request, model):
    sites = UNet.find_sites(request.getfixturevalue(model).unet)
    assert formats.execution_depths([s.width for s in sites]) == pytest.approx([s.depth for s in sites])


# --- files that are not what they should be ------------------------------------------------------------------------


def halves(adapter):
    state = adapter.state_dict()
    image_proj = {k.removeprefix("image_proj."): t for k, t in state.items() if k.startswith("image_proj.")}
    layers = {
        f"{2 * i + 1}.to_{k}_ip.weight": state[f"to_{k}.{i}.weight"] for i in range(len(adapter.sites)) for k in "kv"
    }
    return image_proj, layers


@pytest.fixture
def adapter():
    return IPAdapter(sites_to_config([*map(_site, range(3))]), tiny_models.base_projection(tiny_models.EMBED, 16, 2))


def _site(i):
    from a4a.features import Site

    return Site(f"site {i}", 8, i / 2)


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        formats.read(path)
    message = str(caught.value)
    assert Path(path).name in message
    assert "\n" not in message
    assert message.endswith(".")
    for word in words:
        assert word in message
    return message


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "none.safetensors", "no adapter file")


def test_a_name_that_the_hub_does_not_have_is_refused():
    refused("nobody/nothing/none.safetensors", "no adapter file", "nobody/nothing")


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    refused(tmp_path, "0 adapter files")


def test_a_folder_with_two_adapters_is_refused_with_their_names(adapter, tmp_path):
    formats.write(adapter, tmp_path / "a.safetensors")
    formats.write(adapter, tmp_path / "b.bin")
    refused(tmp_path, "2 adapter files", "a.safetensors", "b.bin")


def test_a_file_with_an_unknown_suffix_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"x")
    refused(tmp_path / "a.onnx", ".onnx")


def test_tensors_of_another_model_are_refused(tmp_path):
    save_file({"down_blocks.0.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "no layout of a known IP-Adapter")


def test_an_image_projection_without_attention_layers_is_refused(adapter, tmp_path):
    torch.save({"image_proj": halves(adapter)[0], "ip_adapter": {}}, tmp_path / "a.bin")
    refused(tmp_path / "a.bin", "expected image_proj.proj.weight and ip_adapter.1.to_k_ip.weight")


def test_a_pickle_that_holds_no_dict_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "a.bin")
    refused(tmp_path / "a.bin", "list")


def test_keys_without_values_are_refused(adapter, tmp_path):
    image_proj, layers = halves(adapter)
    del layers["3.to_v_ip.weight"]
    torch.save({"image_proj": image_proj, "ip_adapter": layers}, tmp_path / "a.bin")
    refused(tmp_path / "a.bin", "3.to_v_ip.weight")


def test_a_layer_of_another_shape_is_refused(adapter, tmp_path):
    image_proj, layers = halves(adapter)
    layers["3.to_v_ip.weight"] = torch.zeros(8, 15)
    torch.save({"image_proj": image_proj, "ip_adapter": layers}, tmp_path / "a.bin")
    refused(tmp_path / "a.bin")


def test_an_image_projection_without_its_bias_is_refused(adapter, tmp_path):
    image_proj, layers = halves(adapter)
    del image_proj["proj.bias"]
    torch.save({"image_proj": image_proj, "ip_adapter": layers}, tmp_path / "a.bin")
    refused(tmp_path / "a.bin", "proj.bias")


@FORMATS
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(adapter, tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    formats.write(adapter, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "truncated or corrupted")


@FORMATS
@pytest.mark.parametrize("place", [0.0, 0.02, 0.97])
def test_corrupted_bytes_are_refused_or_harmless(adapter, tmp_path, suffix, place):
    path = tmp_path / f"a{suffix}"
    formats.write(adapter, path)
    raw = bytearray(path.read_bytes())
    start = int(len(raw) * place)
    raw[start : start + 40] = random.Random(0).randbytes(40)
    path.write_bytes(raw)
    try:
        formats.read(path)
    except InputError as error:
        assert path.name in str(error)
    else:
        assert place > 0.9 or suffix == ".bin"


def test_a_file_of_random_bytes_is_refused(tmp_path):
    for suffix in (".bin", ".safetensors"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(random.Random(1).randbytes(2000))
        refused(path, "truncated or corrupted")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("how", ["pickle", "zip"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, how):
    proof, path = tmp_path / "ran", tmp_path / "a.bin"
    content = {"image_proj": {"proj.weight": torch.zeros(2)}, "ip_adapter": Bomb(proof)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    refused(path, "code")
    assert not proof.exists()
    pickle.loads(pickle.dumps(Bomb(proof)))  # the bomb is a real one
    assert proof.exists()


def linear(name, *shape):
    return {f"{name}.weight": torch.zeros(*shape)}


VARIANTS = {
    "full-face": linear("proj.0", 8, 8) | linear("proj.2", 8, 8) | linear("proj.3", 8),
    "FaceID-plus": linear("perceiver_resampler.proj_in", 8, 8)
    | linear("proj.0", 8, 8)
    | linear("proj.2", 8, 8)
    | linear("norm", 8),
    "FaceID": linear("proj.0", 8, 8) | linear("proj.2", 64, 8) | linear("norm", 16),
    "FaceID-portrait-unnorm": {"latents": torch.zeros(1, 16, 8)}
    | linear("proj_in", 8, 512)
    | linear("proj_out", 8, 8)
    | linear("norm_out", 8),
}


def test_every_unsupported_family_has_an_example():
    assert set(VARIANTS) == set(UNSUPPORTED)
    assert not UNSUPPORTED.keys() & projection_families().keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_unsupported_families_are_recognised_and_refused_by_name(adapter, tmp_path, variant):
    torch.save({"image_proj": VARIANTS[variant], "ip_adapter": halves(adapter)[1]}, tmp_path / "a.bin")
    refused(tmp_path / "a.bin", f"the {variant} family")


# --- places that cannot be written ---------------------------------------------------------------------------------


def in_a_process(code, *arguments):
    """Runs code in a process of its own, whose file size limit or user is its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(a4a.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=600
    )


FULL = """
import resource, signal, sys, torch
from a4a.adapters import formats
from a4a.adapters.ip_adapter import IPAdapter
from a4a.errors import InputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for path in sys.argv[1:]:
    try:
        formats.write(IPAdapter([["a", 64, 0.0]], {"family": "base", "image_embed_dim": 64, "text_width": 64}), path)
    except InputError as error:
        print(error)
"""


def test_a_write_that_fails_leaves_the_former_file(adapter, tmp_path):
    folder = tmp_path / "out"
    paths = [folder / "a.bin", folder / "a.safetensors"]
    for path in paths:
        formats.write(adapter, path, torch.float32)
    result = in_a_process(FULL, *paths)
    assert [f"Cannot write {path}" in line for path, line in zip(paths, result.stdout.splitlines(), strict=True)] == [
        True,
        True,
    ], result.stderr
    for path in paths:
        assert same(formats.read(path).state_dict(), adapter.state_dict())
    assert sorted(folder.iterdir()) == paths


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_full_disk_is_an_input_error_and_leaves_no_file(adapter, tmp_path, full_disk, suffix):
    with pytest.raises(InputError, match=r"Cannot write .* the disk is full"):
        formats.write(IPAdapter([["a", 640, 0.0]], tiny_models.base_projection(640, 640)), full_disk / f"a{suffix}")
    assert list(full_disk.iterdir()) == []


def test_a_path_through_a_file_is_an_input_error(adapter, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Cannot write .*not a folder"):
        formats.write(adapter, tmp_path / "file" / "a.safetensors")


READ_ONLY = """
import os, sys
from a4a.adapters import formats
from a4a.adapters.ip_adapter import IPAdapter
from a4a.errors import InputError

if os.getuid() == 0:
    os.setuid(65534)
try:
    formats.write(IPAdapter([["a", 8, 0.0]], {"family": "base", "image_embed_dim": 8, "text_width": 8}), sys.argv[1])
except InputError as error:
    print(error)
"""


def test_a_folder_without_write_permission_is_an_input_error(tmp_path):
    tmp_path.chmod(0o555)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    result = in_a_process(READ_ONLY, tmp_path / "a.safetensors")
    tmp_path.chmod(0o755)
    assert "Cannot write" in result.stdout, result.stderr
    assert "permissions" in result.stdout
    assert errno.errorcode[errno.EACCES] not in result.stdout
