"""The zoo's recipe, run with crumbs: every stage makes what the next one needs."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from a4a.adapters.loading import load_adapter
from a4a.backbones import backbone_for, load_pipeline
from a4a.errors import InputError
from a4a.training.denoising import LearningRates
from a4a.zoo.build import build
from a4a.zoo.registry import RECIPE
from a4a.zoo.trait_conditioning import TraitConditioned


def crumbs() -> dict:
    """The shipped recipe with next to no samples and subjects."""
    recipe = yaml.safe_load(RECIPE.read_text())
    for stage in recipe.values():
        for part in (stage, stage.get("trait_conditioning", {})):
            if "training" in part:
                part["training"].pop("evaluate_every", None)
                part["training"] |= {"samples": 8, "batch_size": 4, "checkpoint_every": 8, "tensorboard": False}
        for name in ("subjects", "sentences"):
            if name in stage:
                stage[name] = 8
        if "data" in stage:
            stage["data"] |= {"subjects": 4}
        stage.pop("compile", None)
    return recipe


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("zoo")
    build(crumbs(), root / "models", root / "runs", subjects=2, generations=2, validation=2)
    return root


def test_every_stage_of_the_recipe_leaves_a_model_with_figures(built):
    for name in yaml.safe_load(RECIPE.read_text()):
        figures = json.loads((built / "models" / name / "figures.json").read_text())
        assert figures or name.startswith("t5"), name
        assert "a4a zoo build" in (built / "models" / name / "README.md").read_text()


def test_built_models_load_through_the_public_functions(built):
    for name in ("sd15-mini", "sdxl-mini", "pixart-mini", "sd3-mini"):
        assert backbone_for(load_pipeline(built / "models" / name)).sites
    adapter = load_adapter(built / "models" / "a4a-plus-pixart-mini")
    assert "library_name: a4a" in (built / "models" / "a4a-plus-pixart-mini" / "README.md").read_text()
    assert adapter.sites == backbone_for(load_pipeline(built / "models" / "pixart-mini")).sites
    assert (
        load_adapter(built / "models" / "ip-adapter-sd15-mini" / "ip-adapter-sd15-mini.safetensors").tokens
        == adapter.tokens
    )


def test_weights_that_a_pipeline_shares_with_another_stage_are_links(built):
    shared = built / "models" / "pixart-mini" / "vae" / "diffusion_pytorch_model.safetensors"
    assert shared.readlink() == Path("../../vae/diffusion_pytorch_model.safetensors")
    assert shared.is_file()


def test_finished_stages_are_not_run_again(built):
    before = {p: p.stat().st_mtime_ns for p in (built / "models").rglob("*") if p.is_file()}
    build(crumbs(), built / "models", built / "runs", subjects=2, generations=2, validation=2)
    assert before == {p: p.stat().st_mtime_ns for p in (built / "models").rglob("*") if p.is_file()}


def test_a_stage_that_is_not_in_the_recipe_is_named(tmp_path):
    with pytest.raises(InputError, match="no stage sd35-mini"):
        build(crumbs(), tmp_path / "models", tmp_path / "runs", ["sd35-mini"])


def test_trait_conditioning_is_left_out_in_some_steps(built):
    lessons = TraitConditioned(backbone_for(load_pipeline(built / "models" / "sd15-mini")), LearningRates())
    batch = {"latents": torch.randn(2, 8, 8, 8), "embeds": torch.randn(2, lessons.adapter.image_embed_dim)}
    batch |= {f"text.{name}": t.expand(2, *t.shape[1:]) for name, t in lessons._no_text.items()}
    told = []
    for step in range(12):
        torch.manual_seed(step)
        lessons.zero_grad()
        lessons(batch).backward()
        told.append(lessons.adapter.image_proj.proj.weight.grad is not None)
        assert all(p.grad is not None for n, p in lessons.denoiser.named_parameters())
    assert 0 < sum(told) < 12
