"""What holds for every source family, from the published file to images; families are in `tiny_projections`."""

import pytest
import torch

import tiny_encoders
import tiny_models
import tiny_projections
from a4a.adapters import formats
from a4a.adapters.a4a import A4A
from a4a.adapters.loading import load_adapter
from a4a.adapters.projections import projection_families
from a4a.backbones import backbone_for
from a4a.cli.inspect import inspect_facts
from a4a.errors import InputError
from a4a.pipeline import ImagePromptPipeline
from a4a.training.denoising import ConditionDropout, Denoising, ObjectiveConfig


@pytest.fixture(params=projection_families())
def family(request):
    assert request.param in tiny_projections.PROJECTIONS, f"tests/tiny_projections.py has no line for {request.param}"
    return request.param


@pytest.fixture
def adapter(family, sd15):
    return tiny_projections.ip_adapter(sd15, family)


@pytest.fixture
def embeds(family):
    return tiny_projections.embeds(family, 2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_projections.image_encoder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def no_image(adapter, encoder):
    """Zeros for pooled embeddings, the encoding of a zero image for tokens."""
    return encoder.with_output(adapter.encoder_output).unconditional()


def same(a, b):
    return all(map(torch.equal, a.keys + a.values, b.keys + b.values))


def test_a_published_file_is_written_recognised_and_read_again(family, adapter, embeds, tmp_path):
    formats.write(adapter, tmp_path / "a.safetensors", torch.float32)
    image_proj, layers = formats.load_halves(tmp_path / "a.safetensors")
    assert [name for name, kind in projection_families().items() if kind.matches(image_proj)] == [family]
    description = formats.describe(image_proj, layers, "a")
    assert description.family == family
    assert description.options["tokens"] == adapter.tokens
    again = formats.read(tmp_path / "a.safetensors")
    assert adapter.image_proj.config.items() <= again.image_proj.config.items()
    assert same(again(embeds), adapter(embeds))


def test_a_file_that_lacks_a_tensor_is_refused(family, adapter, tmp_path):
    formats.write(adapter, tmp_path / "a.bin", torch.float32)
    halves = torch.load(tmp_path / "a.bin", weights_only=True)
    signature = projection_families()[family].signature
    name = next(n for n in halves["image_proj"] if n not in signature)
    del halves["image_proj"][name]
    torch.save(halves, tmp_path / "a.bin")
    with pytest.raises(InputError, match=f"not a whole IP-Adapter of the {family} family"):
        formats.read(tmp_path / "a.bin")


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_diffusers_loads_the_file_and_generates_the_same_images(request, family, encoder, no_image, tmp_path, model):
    pipe = tiny_models.with_own_denoiser(request.getfixturevalue(model))
    adapter, reference = tiny_projections.ip_adapter(pipe, family), tiny_projections.embeds(family)
    formats.write(adapter, tmp_path / "a.safetensors", torch.float32)
    found = tiny_models.call(ImagePromptPipeline(pipe, adapter, encoder), image_prompt_embeds=reference)
    plain = tiny_models.call(pipe)
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name="a.safetensors", image_encoder_folder=None)
    expected = tiny_models.call(pipe, ip_adapter_image_embeds=[torch.cat([no_image, reference])[:, None]])
    assert (found - plain).abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_unconditional_embedding_is_zero_or_the_encoders(adapter, embeds, no_image):
    assert torch.equal(adapter.unconditional(embeds, no_image), no_image.expand_as(embeds))
    if adapter.encoder_output == "tokens":
        with pytest.raises(InputError, match="needs the tokens of a zero image"):
            adapter.unconditional(embeds)


def test_a_transfer_and_a_transfer_of_that_transfer_are_saved_and_loaded(adapter, embeds, pixart, sdxl, tmp_path):
    first = tiny_models.shaken(tiny_models.a4a(adapter, pixart), 0.1)
    second = tiny_models.shaken(tiny_models.a4a(first, sdxl, d_scm=32), 0.1)
    second.save_pretrained(tmp_path)
    again = A4A.from_pretrained(tmp_path)
    assert same(again(embeds), second(embeds))
    assert again.source.config == second.source.config
    again(embeds).check(backbone_for(sdxl).sites, "the model")


def test_the_whitened_projection_can_be_initialised_from_every_family(adapter, family, pixart):
    transferred = tiny_models.a4a(adapter, pixart)
    before = transferred(tiny_projections.embeds(family, 2))
    transferred.init_projection(tiny_projections.embeds(family, 300))
    assert not same(transferred(tiny_projections.embeds(family, 2)), before)


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_a_training_step_reaches_every_parameter_and_drops_images_to_no_image(family, adapter, no_image, pixart, drop):
    backbone = backbone_for(pixart)
    transferred = tiny_models.shaken(tiny_models.a4a(adapter, pixart), 0.1)
    config = ObjectiveConfig(dropping=ConditionDropout(image=drop, text=0.0, both=0.0), train_source=True)
    loss = Denoising(backbone, transferred, config, no_image=no_image)
    seen = []
    handle = transferred.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    batch = {**tiny_models.Samples(backbone, 2).tensors, "embeds": tiny_projections.embeds(family, 2)}
    loss(batch).backward()
    loss.detach()
    handle.remove()
    assert torch.equal(seen[0], no_image.expand(2, *no_image.shape[1:]) if drop else batch["embeds"])
    # of zeros, a projection's first matrix learns nothing
    silent = [n for n, p in transferred.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == [] or (drop and adapter.encoder_output == "pooled")


def test_a_reference_image_becomes_a_generated_image(adapter, encoder, sd15, pixart):
    image, other = tiny_encoders.random_blocks(1), tiny_encoders.noise(2)
    for pipe, made in ((sd15, adapter), (pixart, tiny_models.shaken(tiny_models.a4a(adapter, pixart), 0.2))):
        pipeline = ImagePromptPipeline(pipe, made, encoder)
        found = tiny_models.call(pipeline, image_prompt=image)
        assert found.isfinite().all()
        assert not torch.allclose(found, tiny_models.call(pipeline, image_prompt=other), atol=1e-3)
        kept = pipeline.encode_image_prompt(image)
        torch.testing.assert_close(tiny_models.call(pipeline, image_prompt_embeds=kept), found)


def test_inspect_knows_files_and_saved_folders(family, adapter, tmp_path):
    formats.write(adapter, tmp_path / "a.safetensors")
    facts = inspect_facts(str(tmp_path / "a.safetensors"))
    assert (facts["kind"], facts["transferable"]) == (f"IP-Adapter, {family} family", True)
    assert facts["embedding width"] == adapter.image_embed_dim
    adapter.save_pretrained(tmp_path / "saved")
    assert inspect_facts(str(tmp_path / "saved"))["family"] == family
    assert load_adapter(tmp_path / "saved", torch_dtype=torch.bfloat16).dtype == torch.bfloat16
