"""What every backbone promises, on every tiny pipeline; a new family only adds one to `tiny_models.PIPELINES`."""

import pytest
import torch

import tiny_models
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import backbone_for, families
from a4a.backbones.attention import contract_of
from a4a.injection import attach, is_attached
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, LearningRates, ObjectiveConfig
from a4a.training.trainer import train


@pytest.fixture
def backbone(pipe):
    return backbone_for(tiny_models.with_own_denoiser(pipe))


def test_every_family_has_a_tiny_pipeline(request):
    pipes = [request.getfixturevalue(name) for name in tiny_models.PIPELINES]
    missing = set(families()) - {type(backbone_for(pipe).denoiser).__name__ for pipe in pipes}
    assert not missing, f"tests/tiny_models.py has no pipeline with {', '.join(sorted(missing))}"


def test_sites_are_attention_modules_with_distinct_names(backbone):
    names = [s.name for s in backbone.sites]
    assert len(names) == len(set(names)) > 0
    for site in backbone.sites:
        module, contract = backbone.denoiser.get_submodule(site.name), contract_of(site.attention)
        assert all(hasattr(module, part) for part in (contract.query, *contract.text, contract.output, contract.heads))
        assert contract.key_width(module) == site.width
    depths = sorted(s.depth for s in backbone.sites)
    assert (depths[0], depths[-1]) == (0.0, 1.0)
    assert len(set(depths)) == len(depths)


def test_every_site_is_in_a_block_that_is_compiled_and_quantised(backbone):
    inside = {name for name, m in backbone.denoiser.named_modules() if type(m).__name__ in backbone.blocks}
    assert {type(backbone.denoiser.get_submodule(name)).__name__ for name in inside} == set(backbone.blocks)
    for site in backbone.sites:
        assert any(site.name.startswith(f"{name}.") for name in inside), site.name


def test_a_prediction_has_the_shape_of_the_latents(backbone):
    noisy, timesteps, text = tiny_models.inputs(backbone, 3)
    found = backbone.predict(noisy, timesteps, text)
    assert found.shape == noisy.shape
    assert found.isfinite().all()


def test_rows_of_a_batch_do_not_affect_each_other(backbone):
    noisy, timesteps, text = tiny_models.inputs(backbone, 3)
    whole = backbone.predict(noisy, timesteps, text)
    for i in range(3):
        alone = backbone.predict(
            noisy[i : i + 1], timesteps[i : i + 1], {name: t[i : i + 1] for name, t in text.items()}
        )
        torch.testing.assert_close(alone[0], whole[i], atol=1e-5, rtol=1e-4)


def test_time_step_and_text_change_the_prediction(backbone):
    noisy, timesteps, text = tiny_models.inputs(backbone, 2)
    found = backbone.predict(noisy, timesteps, text)
    assert not torch.allclose(backbone.predict(noisy, timesteps.flip(0), text), found, atol=1e-4)
    empty = {name: t.expand_as(text[name]) for name, t in backbone.no_text().items()}
    assert not torch.allclose(backbone.predict(noisy, timesteps, empty), found, atol=1e-5)


def test_features_at_any_one_site_reach_the_prediction(backbone):
    adapter = tiny_models.ip_adapter(backbone.pipe)
    inputs = tiny_models.inputs(backbone)
    plain = backbone.predict(*inputs)
    features = adapter(tiny_models.embeds())
    for i in range(len(backbone.sites)):
        scales = [float(j == i) for j in range(len(backbone.sites))]
        with attach(backbone.denoiser, backbone.sites, features, scales):
            assert not torch.equal(backbone.predict(*inputs), plain)
    assert torch.equal(backbone.predict(*inputs), plain)


@pytest.mark.parametrize("weighting", [0, 1])
def test_an_adapter_is_trained_and_the_model_stays_frozen(backbone, tmp_path, weighting):
    weighting = backbone.prediction.weightings[weighting]
    before = {name: t.clone() for name, t in backbone.denoiser.state_dict().items()}
    torch.manual_seed(0)
    adapter = IPAdapter.from_denoiser(
        backbone.sites, backbone.text_projections(), {"image_embed_dim": tiny_models.EMBED}
    )
    begin = {name: p.detach().clone() for name, p in adapter.named_parameters()}
    objective = Denoising(backbone, adapter, ObjectiveConfig(rates=LearningRates(adapter=1e-3), weighting=weighting))
    rows = train(
        objective,
        tiny_models.Samples(backbone, 4),
        TrainingConfig(samples=8, batch_size=4, tensorboard=False),
        tmp_path,
    )
    assert all(torch.tensor(r["loss"]).isfinite() for r in rows)
    for name, p in adapter.named_parameters():
        assert p.isfinite().all()
        assert p.grad is None or p.grad.isfinite().all()
        assert not torch.equal(p, begin[name]), name
    assert all(torch.equal(t, before[name]) for name, t in backbone.denoiser.state_dict().items())


def test_one_batch_can_be_learned(backbone):
    torch.manual_seed(0)
    objective = Denoising(backbone, tiny_models.ip_adapter(backbone.pipe), ObjectiveConfig())
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], 1e-2)
    batch, losses = tiny_models.Samples(backbone, 4).batch(torch.arange(4)), []
    for _ in range(8):
        torch.manual_seed(1)
        loss = objective(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_denoiser_itself_can_be_trained(backbone):
    objective = Denoising(backbone, None, ObjectiveConfig())
    assert not is_attached(backbone.denoiser)
    assert [group["name"] for group in objective.parameter_groups()] == ["denoiser"]
    batch = tiny_models.Samples(backbone, 4).batch(torch.arange(2))
    del batch["embeds"]
    objective(batch).backward()
    used = [p.grad is not None for p in backbone.denoiser.parameters()]
    assert sum(used) > 0.9 * len(used)
