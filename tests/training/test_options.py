"""Options that save memory or time, each read and each without a change to what is learned but where it says so."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import tiny_models
from a4a.backbones import SizeConditions, backbone_for
from a4a.backbones.quantization import Int8Linear, to_int8
from a4a.errors import InputError
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.training.trainer import train
from a4a.transfer.config import Precision

sys.path.append(str(Path(__file__).parent))
from toy_runs import Regression, Rows, config


def rows(backbone, count=3):
    generator = torch.Generator().manual_seed(0)
    text = backbone.encode_text(["a red cat", "a blue cat", "a cat"][:count])
    return {
        "latents": torch.randn(
            count, backbone.latent_channels, tiny_models.SIDE, tiny_models.SIDE, generator=generator
        ),
        "embeds": torch.randn(count, tiny_models.EMBED, generator=generator),
        **{f"text.{name}": t for name, t in text.items()},
    }


def gradients(objective, batch):
    objective.zero_grad()
    torch.manual_seed(0)
    loss = objective(batch)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in objective.parameters() if p.requires_grad]


def denoising(pipe, source, **options):
    own = backbone_for(tiny_models.with_own_denoiser(pipe))
    return Denoising(own, tiny_models.a4a(tiny_models.ip_adapter(source), pipe), ObjectiveConfig(**options)), own


# --- 8 bits -----------------------------------------------------------------------------------------------------------


def test_an_int8_layer_computes_with_rounded_weights():
    torch.manual_seed(0)
    linear = nn.Linear(32, 48)
    rounded = Int8Linear(linear)
    x = torch.randn(5, 32, requires_grad=True)
    assert (rounded.weight - linear.weight).abs().max() <= linear.weight.abs().max() / 127
    torch.testing.assert_close(rounded(x), nn.functional.linear(x, rounded.weight, linear.bias))
    (given,) = torch.autograd.grad(rounded(x).square().sum(), x)
    (expected,) = torch.autograd.grad(nn.functional.linear(x, rounded.weight, linear.bias).square().sum(), x)
    torch.testing.assert_close(given, expected)


def test_an_int8_layer_saves_only_int8_weights_for_the_backward_pass():
    kept = []
    layer = Int8Linear(nn.Linear(32, 48))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(5, 32, requires_grad=True))
    assert {t.dtype for t in kept if t.numel() == 32 * 48} == {torch.int8}


def test_an_int8_denoiser_is_smaller_and_has_nearly_the_same_gradients(pipe, sd15):
    objective, backbone = denoising(pipe, sd15)
    batch = rows(backbone)
    loss, found = gradients(objective, batch)
    before = sum(t.numel() * t.element_size() for t in backbone.denoiser.state_dict().values())
    to_int8(backbone.denoiser, backbone.blocks)
    assert any(isinstance(m, Int8Linear) for m in backbone.denoiser.modules())
    assert sum(t.numel() * t.element_size() for t in backbone.denoiser.state_dict().values()) < before
    rounded, close = gradients(objective, batch)
    assert rounded == pytest.approx(loss, rel=0.02)
    similarity = torch.cosine_similarity(
        torch.cat([g.flatten() for g in found]), torch.cat([g.flatten() for g in close]), dim=0
    )
    assert similarity > 0.98


def test_sharding_int8_weights_is_refused():
    with pytest.raises(InputError, match=r"precision.shard and precision.frozen int8 do not go together"):
        Precision("int8", shard=True)


def test_sharding_in_one_process_is_refused(sd15):
    with pytest.raises(InputError, match="there is one process; start several with torchrun"):
        Precision(shard=True).apply(backbone_for(sd15))


@pytest.mark.parametrize(
    "options", [{}, {"base_sites": 2}, {"coupling": False}, {"connectivity": "layer_by_layer"}], ids=str
)
def test_every_trained_parameter_gets_a_gradient(sd15, pixart, options):
    """With several processes one without a gradient would end the training."""
    backbone = backbone_for(tiny_models.with_own_denoiser(pixart))
    source = tiny_models.ip_adapter(sd15)
    adapter = tiny_models.a4a(source, pixart, **options)
    objective = Denoising(backbone, adapter, ObjectiveConfig(train_source=True))
    _, found = gradients(objective, rows(backbone))
    assert len(found) == sum(len(group["params"]) for group in objective.parameter_groups())
    used = {"base_sites": 2, "coupling": 0}.get(next(iter(options), ""), len(source.sites))
    assert sum(p.requires_grad for p in adapter.source.parameters()) == 2 * used + len(
        list(source.image_proj.parameters())
    )


def test_the_loss_tells_sdxl_the_sizes_of_its_batch(sdxl):
    objective, backbone = denoising(sdxl, sdxl)
    told, batch = [], rows(backbone)
    objective.denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    side = tiny_models.SIDE * backbone.vae_scale_factor
    sizes = SizeConditions(torch.tensor([[300, 200]] * 3), torch.tensor([[50, 0]] * 3), torch.tensor([[side] * 2] * 3))
    plain, _ = gradients(objective, batch)
    uncropped, _ = gradients(objective, {**batch, **vars(SizeConditions.uncropped(3, side, side))})
    cropped, _ = gradients(objective, {**batch, **vars(sizes)})
    assert told[0].tolist() == told[1].tolist() == [[side, side, 0, 0, side, side]] * 3 and plain == uncropped
    assert told[2].tolist() == [[300, 200, 50, 0, side, side]] * 3 and cropped != plain


def test_a_denoiser_in_16_bits_runs_in_16_bits_under_autocast(sd15, pixart):
    objective, backbone = denoising(pixart, sd15)
    nn.Module.to(backbone.denoiser, torch.bfloat16)
    seen = set()
    for module in backbone.denoiser.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = gradients(objective, rows(backbone))
    assert seen == {torch.bfloat16}
    assert loss == loss


# --- compiled ---------------------------------------------------------------------------------------------------------


def test_compiled_blocks_share_one_graph_and_give_the_same_gradients(sd15, pixart, monkeypatch):
    counter = CompileCounterWithBackend("aot_eager")
    stock = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: stock(self, backend=counter))
    torch._dynamo.reset()
    plain, backbone = denoising(pixart, sd15)
    batch = rows(backbone)
    loss, expected = gradients(plain, batch)
    compiled, _ = denoising(pixart, sd15, compile=True)
    for _ in range(2):
        again, found = gradients(compiled, batch)
    assert again == pytest.approx(loss, rel=1e-5)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert counter.frame_count == 2  # three blocks: the first, whose input needs no gradient, and the others


# --- time steps -------------------------------------------------------------------------------------------------------


def drawn(sd15, **options):
    objective, _ = denoising(sd15, sd15, **options)
    torch.manual_seed(0)
    return objective.prediction.sample_timesteps(20_000, "cpu", objective.density).float()


def test_time_steps_follow_the_chosen_density(sd15):
    uniform = drawn(sd15)
    middle, noisy = drawn(sd15, timesteps="logit_normal"), drawn(sd15, timesteps="logit_normal", logit_mean=1.0)
    mode = drawn(sd15, timesteps="mode")
    assert uniform.mean() == pytest.approx(500, abs=10) and uniform.std() == pytest.approx(289, abs=5)
    assert middle.mean() == pytest.approx(500, abs=10) and middle.std() == pytest.approx(208, abs=5)
    assert noisy.median() == pytest.approx(731, abs=10)  # sigmoid(1)
    assert mode.std() < 0.95 * uniform.std()
    for t in (uniform, middle, noisy, mode):
        assert t.min() >= 0 and t.max() <= 999


def test_by_default_time_steps_are_drawn_as_the_models_authors_drew_them(sd15, sd3):
    assert denoising(sd15, sd15)[0].density.kind == "uniform"
    assert denoising(sd3, sd15)[0].density.kind == "logit_normal"
    assert denoising(sd3, sd15, timesteps="uniform")[0].density.kind == "uniform"


# --- the optimiser ----------------------------------------------------------------------------------------------------


class Wide(Regression):
    """With a layer that is large enough for 8-bit states."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 2048), nn.Linear(2048, 2)


def test_the_8_bit_optimizer_learns_the_same_and_resumes_bit_for_bit(tmp_path):
    pytest.importorskip("torchao")
    options = {"optimizer": "adamw_8bit", "ema_decay": None}
    with torch.compiler.set_stance("force_eager"):  # no compiler is needed for what is tested here
        plain = train(Wide(), Rows(), config(40, ema_decay=None), tmp_path / "plain")
        rows = train(Wide(), Rows(), config(40, **options), tmp_path / "a")
        half = Wide()
        train(half, Rows(), config(24, **options, schedule="constant", warmup=0), tmp_path / "b")
        resumed, whole = Wide(), Wide()
        train(resumed, Rows(), config(40, **options, schedule="constant", warmup=0), tmp_path / "b", resume=True)
        train(whole, Rows(), config(40, **options, schedule="constant", warmup=0), tmp_path / "c")
    for small, large in zip(rows[:4], plain, strict=False):
        assert small["loss"] == pytest.approx(large["loss"], rel=0.05)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))
    states = torch.load(tmp_path / "a" / "checkpoints" / "0000000040" / "optimizer.pt", weights_only=True)["state"]
    assert any("8bit" in type(t).__name__ for state in states.values() for t in state.values())


def test_without_torchao_the_8_bit_optimizer_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(InputError, match=r"torchao is not installed; pip install 'a4a\[quant\]'"):
        train(Regression(), Rows(), config(8, optimizer="adamw_8bit"), tmp_path)
