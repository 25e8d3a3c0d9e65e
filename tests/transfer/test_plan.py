"""What a recipe needs, found out on shapes, against what a real step takes."""

import json
import re
from dataclasses import replace

import pytest
import torch
import transformers
import yaml
from diffusers import AutoencoderKL
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

import tiny_models
from a4a.backbones import backbone_for, load_pipeline
from a4a.backbones.base import denoiser_part
from a4a.backbones.meta import MetaModel, load_meta_model
from a4a.encoders.clip import CLIPImageEncoder
from a4a.encoders.published import IMAGE_ENCODERS
from a4a.errors import InputError
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.transfer.config import A4AConfig, Precision
from a4a.transfer.dry_run import dry_run
from a4a.transfer.memory import RESERVED, MemoryEstimate, batch, check_fit, estimate_memory, text, working
from a4a.transfer.plan import describe, plan

SIDE = 24


def shell_of(pipe, device):
    """A pipeline's backbone, whose denoiser has weights on the CPU and none on the meta device."""
    own = tiny_models.with_own_denoiser(pipe)
    denoiser = backbone_for(own).denoiser
    with torch.device(device):
        denoiser = type(denoiser).from_config(denoiser.config).requires_grad_(False)
    own.register_modules(**{denoiser_part(own): denoiser})
    return MetaModel(backbone_for(own), {})


def step(pipe, source, device, rows, checkpointing):
    meta_model, precision = shell_of(pipe, device), Precision()
    adapter = tiny_models.a4a(tiny_models.ip_adapter(source), pipe).to(device)
    config = ObjectiveConfig(gradient_checkpointing=checkpointing)
    loss = Denoising(meta_model.backbone, adapter, config, no_text=text(meta_model, 1, precision, device))
    return loss, batch(meta_model, adapter, rows, SIDE, precision, device)


def allocated(loss, inputs):
    """Peak of what torch's own allocator gives out in a step, by its profiler.

    What an earlier test left behind may be collected meanwhile, and the profiler reports that too: only what the step itself took counts.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loss(inputs).backward()
    alive, peak = {}, 0
    for event in sorted(
        allocations(seen.profiler.kineto_results.experimental_event_tree()), key=lambda e: e.start_time_ns
    ):
        memory = event.extra_fields
        if memory.alloc_size > 0:
            alive[memory.ptr] = memory.alloc_size
            peak = max(peak, sum(alive.values()))
        else:
            alive.pop(memory.ptr, None)
    return peak


def allocations(events):
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event
        yield from allocations(event.children)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("model", ["pixart", "sdxl"])
def test_the_planned_memory_is_what_a_step_takes(request, sd15, model, checkpointing):
    pipe = request.getfixturevalue(model)
    foretold = working(*step(pipe, sd15, "meta", 8, checkpointing))
    measured = allocated(*step(pipe, sd15, "cpu", 8, checkpointing))
    assert foretold == pytest.approx(measured, rel=0.05)


def test_memory_is_linear_in_the_batch_and_checkpointing_saves(sd15, pixart):
    one, two, six = (working(*step(pixart, sd15, "meta", n, False)) for n in (1, 2, 6))
    assert six == pytest.approx(one + 5 * (two - one), rel=0.05)
    assert working(*step(pixart, sd15, "meta", 6, True)) < 0.7 * six


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_planned_is_right_for_small_and_large_batches(checkpointing):
    """The miniature's large adapter: with checkpointing its gradients outweigh what a small batch keeps."""
    method, objective, training = A4AConfig(), ObjectiveConfig(gradient_checkpointing=checkpointing), TrainingConfig()
    parts = ("zoo:pixart-mini", "zoo:clip-large/image_encoder", "zoo:ip-adapter-sd15-mini")
    made = estimate_memory(*parts, method, objective, training, Precision())
    loss = Denoising(
        made.meta_model.backbone, made.adapter, objective, no_text=text(made.meta_model, 1, Precision(), "meta")
    )
    for rows in (1, 2, 3, 5, 8, 40):
        direct = working(
            loss, batch(made.meta_model, made.adapter, rows, made.meta_model.side(None), Precision(), "meta")
        )
        assert made.estimate.working(rows) == pytest.approx(direct, rel=0.02), rows
    if checkpointing:
        assert made.estimate.working(1) < 1.1 * made.estimate.gradients
    loss.detach()
    accumulating = estimate_memory(
        *parts, method, objective, TrainingConfig(gradient_accumulation=2), Precision()
    ).estimate
    assert accumulating.working(40) == made.estimate.working(40) + made.estimate.gradients


NEED = MemoryEstimate(
    denoiser=5_000, adapter=500, gradients=400, optimizer=800, average=0, buckets=0, least=1_500, fixed=300, each=1_000
)


def test_the_largest_batch_is_the_last_that_fits():
    gpu = RESERVED + 10_000
    assert NEED.largest_batch(gpu) == 3
    check_fit(NEED, 3, gpu)
    with pytest.raises(InputError, match=r"training.batch_size 4 needs about .* GB but the GPU has .* GB; set it to 3"):
        check_fit(NEED, 4, gpu)
    assert NEED.largest_batch(RESERVED) == NEED.largest_batch(RESERVED + NEED.lasting + NEED.least - 1) == 0
    with pytest.raises(InputError, match=r"set objective.gradient_checkpointing to true"):
        check_fit(NEED, 1, RESERVED)


@pytest.fixture
def recipe(tmp_path, request):
    """The miniature's recipe, with data that are not there."""
    content = yaml.safe_load((request.config.rootpath / "recipes/miniature/transfer.yaml").read_text())
    content["data"] = {"class_path": "a4a.data.PreparedDataset", "init_args": {"path": "nowhere"}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_recipe_is_planned_without_its_data(recipe, capsys):
    plan(recipe, processes=2, samples_per_second=100.0, json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["denoiser, parameters"] > 100_000
    assert facts["hours"] == pytest.approx(facts["samples"] / 100 / 3600)
    assert facts["GPU hours"] == 2 * facts["hours"]
    assert facts["largest batch in 80 GB"] > 1000
    assert facts["encoders beside them, bytes"] > 0  # the recipe has an evaluation


def test_the_table_of_a_plan_has_sizes_in_gb_and_counts_with_separators(recipe, capsys):
    plan(recipe)
    table = capsys.readouterr().out
    assert re.search(r"^peak at batch \d+ +\d+\.\d\d GB$", table, re.M) and "bytes" not in table
    assert re.search(r"^denoiser, parameters +\d{1,3},\d{3}", table, re.M)


def test_prepared_data_may_be_named_by_their_folder_alone(recipe, tmp_path):
    content = yaml.safe_load(recipe.read_text()) | {"data": str(tmp_path), "evaluation": None}
    recipe.write_text(yaml.safe_dump(content))
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": {"crop.size": 128}}))
    assert describe(recipe, 80.0, 1, None)[0]["encoders beside them, bytes"] == 0


def test_prepared_data_that_are_there_tell_their_size(recipe, tmp_path, monkeypatch):
    content = yaml.safe_load(recipe.read_text())
    content["data"]["init_args"]["path"] = str(tmp_path)
    recipe.write_text(yaml.safe_dump(content))
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": {"crop.size": 128}}))
    sizes = []
    monkeypatch.setattr(
        "a4a.transfer.plan.estimate_memory", lambda *args, **_: sizes.append(args[-1]) or estimate_memory(*args[:-1])
    )
    describe(recipe, 80.0, 1, None)
    assert sizes == [128]


def test_a_recipe_whose_batch_cannot_fit_is_an_error(recipe, capsys):
    with pytest.raises(InputError, match=r"training.batch_size \d+ needs about"):
        plan(recipe, gpu=1.5)
    assert "peak" in capsys.readouterr().out  # what it needs is told all the same


def test_encoders_that_stay_are_planned(recipe):
    pipe, encoder = load_pipeline("zoo:pixart-mini"), CLIPImageEncoder.from_pretrained("zoo:clip-large/image_encoder")
    parts = (pipe.vae, pipe.text_encoder, encoder.module)
    size = sum(4 * p.numel() for part in parts for p in part.parameters())
    content = yaml.safe_load(recipe.read_text())
    del content["evaluation"]

    def estimate(**changes):
        recipe.write_text(yaml.safe_dump(content | changes))
        facts = describe(recipe, 80.0, 1, None)[0]
        return facts["encoders beside them, bytes"], facts["peak at batch 32, bytes"]

    (none, without), (some, with_) = (
        estimate(),
        estimate(data={"class_path": "ImageFolderDataset", "init_args": {"path": "nowhere", "size": 64}}),
    )
    assert (none, some, with_ - without) == (0, size, size)
    with pytest.raises(InputError, match=r"the encoders take 0\.\d GB"):
        check_fit(replace(NEED, encoders=10**8), 1, RESERVED)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "cannot be read"),
        ("a: 1", "names no model"),
        ("model: x\ntraining: {sample: 3}", "training .* has no option sample; did you mean samples"),
    ],
)
def test_no_recipe_is_an_input_error(tmp_path, content, said):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(InputError, match=said):
        describe(tmp_path / "r.yaml", 80.0, 1, None)


def test_a_dry_run_goes_all_the_way(tmp_path):
    facts = dry_run(
        "zoo:pixart-mini",
        "zoo:clip-large/image_encoder",
        "zoo:ip-adapter-sd15-mini",
        A4AConfig(rounds=1, heads=4),
        ObjectiveConfig(gradient_checkpointing=True),
        TrainingConfig(batch_size=2),
        Precision("bfloat16"),
        results=tmp_path,
    )
    assert json.loads((tmp_path / "dry-run-zoo-pixart-mini-cpu.json").read_text()) == facts
    assert len(facts["losses"]) == 2 and facts["samples_per_second"] > 0 and facts["latent_step_changed_by_adapter"] > 0


def test_published_encoders_have_these_sizes():
    with torch.device("meta"):
        clip = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
        )
        large = {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
        }
        big = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**large))
        t5 = transformers.T5Config(
            d_model=4096,
            d_ff=10240,
            d_kv=64,
            num_heads=64,
            num_layers=24,
            feed_forward_proj="gated-gelu",
            vocab_size=32128,
        )
        xxl = transformers.T5EncoderModel(t5)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **blocks)
        vision = {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "patch_size": 14,
            "projection_dim": 1024,
        }
        vit = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(num_attention_heads=16, **vision)
        )

    def count(model):
        return sum(p.numel() for p in model.parameters())

    sdxl = load_meta_model("stabilityai/stable-diffusion-xl-base-1.0").encoders
    assert sdxl == {"text_encoder": count(clip), "text_encoder_2": count(big), "vae": count(vae)}
    assert load_meta_model("PixArt-alpha/PixArt-XL-2-1024-MS").encoders["text_encoder"] == count(xxl)
    assert IMAGE_ENCODERS["h94/IP-Adapter/models/image_encoder"].parameters == count(vit)
