import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn

import a4a
import tiny_models
from a4a.adapters.loading import load_adapter
from a4a.backbones import backbone_for
from a4a.errors import InputError
from a4a.training import checkpoint
from a4a.training.checkpoint import Checkpoint, SavedModel
from a4a.training.config import TrainingConfig
from a4a.training.denoising import ConditionDropout, Denoising, LearningRates, ObjectiveConfig
from a4a.training.distributed import accelerator_for
from a4a.training.log import read_log
from a4a.training.sampler import EpochShuffle
from a4a.training.trainer import train

sys.path.append(str(Path(__file__).parent))
from toy_runs import Regression, Rows, config


def weights(objective):
    return {name: p.detach().clone() for name, p in objective.named_parameters()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def losses(rows):
    return [r["loss"] for r in rows if "loss" in r]


def run(output, samples=40, objective=None, dataset=None, resume=False, evaluate=None, **options):
    objective = Regression() if objective is None else objective
    rows = train(
        objective,
        Rows() if dataset is None else dataset,
        config(samples, **options),
        output,
        resume=resume,
        evaluate=evaluate,
    )
    return objective, rows


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Ten steps of four samples in one go."""
    return run(tmp_path_factory.mktemp("straight"))


class Stopped(Exception):
    pass


class StopsAt(Regression):
    """Fails at a given forward pass, as a process that dies."""

    def __init__(self, passes):
        super().__init__()
        self.passes = passes

    def forward(self, batch):
        if self.calls == self.passes:
            raise Stopped
        return super().forward(batch)


# --- going on as if nothing had happened ---------------------------------------------------------------------------


def test_training_learns(straight):
    assert losses(straight[1])[-1] < losses(straight[1])[0]
    assert len(straight[1]) == 10


@pytest.mark.parametrize("after", [5, 13, 16])
def test_a_resumed_run_is_the_same_bit_for_bit(straight, tmp_path, after):
    with pytest.raises(Stopped):
        run(tmp_path, objective=StopsAt(after))
    resumed, rows = run(tmp_path, resume=True)
    assert equal(weights(resumed), weights(straight[0]))
    assert losses(rows) == losses(straight[1])
    assert [r["step"] for r in rows] == list(range(1, 11))
    assert losses(read_log(tmp_path / "log.csv")) == losses(rows)


def test_the_moving_average_is_resumed_too(straight, tmp_path):
    run(tmp_path, samples=40)
    with pytest.raises(Stopped):
        run(tmp_path / "again", objective=StopsAt(13))
    run(tmp_path / "again", resume=True)
    last, again = (sorted((p / "checkpoints").iterdir())[-1] for p in (tmp_path, tmp_path / "again"))
    assert equal(load_file(last / "ema.safetensors"), load_file(again / "ema.safetensors"))
    assert equal(load_file(last / "weights.safetensors"), load_file(again / "weights.safetensors"))
    assert not equal(load_file(last / "weights.safetensors"), load_file(last / "ema.safetensors"))


def test_after_training_the_objective_holds_the_moving_average(tmp_path):
    objective, _ = run(tmp_path)
    average = load_file(sorted((tmp_path / "checkpoints").iterdir())[-1] / "ema.safetensors")
    assert all(torch.equal(weights(objective)[name], t) for name, t in average.items())


def test_evaluation_uses_the_moving_average_and_does_not_change_training(straight, tmp_path):
    seen = []
    objective = Regression()

    def evaluate(samples):
        assert not objective.training
        seen.append((samples, weights(objective)))
        return {"score": float(samples)}

    _, rows = run(tmp_path, objective=objective, evaluate=evaluate, evaluate_every=20)
    assert [s for s, _ in seen] == [0, 20, 40]
    assert losses(rows) == losses(straight[1])
    assert [(r["samples"], r["score"]) for r in rows if "score" in r] == [(0, 0.0), (20, 20.0), (40, 40.0)]
    assert equal(seen[-1][1], weights(objective))
    assert read_log(tmp_path / "log.csv") == rows


def test_a_run_can_be_evaluated_at_listed_counts_too(tmp_path):
    _, rows = run(tmp_path, evaluate=lambda _: {"score": 1.0}, evaluate_every=32, evaluate_at=[7, 12])
    assert [r["samples"] for r in rows if "score" in r] == [0, 8, 12, 32, 40]


def test_a_finished_run_that_is_resumed_does_nothing(straight, tmp_path):
    run(tmp_path)
    objective, rows = run(tmp_path, resume=True)
    assert objective.calls == 0
    assert losses(rows) == losses(straight[1])
    assert equal(weights(objective), weights(straight[0]))


def test_resume_without_a_run_begins_one(straight, tmp_path):
    assert losses(run(tmp_path, resume=True)[1]) == losses(straight[1])


class Draws(Regression):
    """Keeps what it draws."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def forward(self, batch):
        self.drawn.append(torch.rand(()).item())
        return super().forward(batch)


def test_random_numbers_of_a_pass_depend_on_seed_and_pass_alone(tmp_path):
    alone, disturbed = Draws(), Draws()
    run(tmp_path / "a", objective=alone)
    run(tmp_path / "b", objective=disturbed, evaluate=lambda _: {"score": torch.rand(7).sum().item()}, evaluate_every=4)
    other, _ = run(tmp_path / "c", objective=Draws(), seed=1)
    assert len(set(alone.drawn)) == 20
    assert disturbed.drawn == alone.drawn
    assert not set(other.drawn) & set(alone.drawn)


def test_a_half_written_checkpoint_is_ignored(straight, tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path, objective=StopsAt(13))
    half = tmp_path / "checkpoints" / "0000000099"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"")
    assert half not in checkpoint.existing(tmp_path / "checkpoints")
    assert losses(run(tmp_path, resume=True)[1]) == losses(straight[1])


def in_a_process(output, samples, kind, *more):
    environment = {**os.environ, "PYTHONPATH": str(Path(a4a.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(Path(__file__).with_name("toy_runs.py")), str(output), str(samples), kind, *more]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_can_be_resumed_bit_for_bit(straight, tmp_path):
    process = in_a_process(tmp_path, 40, "killed")
    assert process.wait(600) == -signal.SIGKILL, process.stderr.read()
    assert [p.name for p in checkpoint.existing(tmp_path / "checkpoints")] == ["0000000016", "0000000024"]
    resumed, rows = run(tmp_path, resume=True)
    assert resumed.calls == 8
    assert losses(rows) == losses(straight[1])
    assert equal(weights(resumed), weights(straight[0]))


def test_sigterm_saves_a_checkpoint_and_ends_a_run_that_can_be_resumed(tmp_path):
    process = in_a_process(tmp_path, 100_000, "slow")
    log = tmp_path / "log.csv"
    deadline = time.monotonic() + 600
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == 128 + signal.SIGTERM, process.stderr.read()
    done = read_log(log)
    samples = int(done[-1]["samples"])
    assert int(checkpoint.existing(tmp_path / "checkpoints")[-1].name) == samples
    with pytest.raises(Stopped):  # a few steps more
        run(tmp_path, samples=100_000, resume=True, objective=StopsAt(6))
    with pytest.raises(Stopped):  # the same in one go
        run(tmp_path / "straight", samples=100_000, objective=StopsAt(samples // 2 + 6))
    assert losses(read_log(log)) == losses(read_log(tmp_path / "straight" / "log.csv"))
    assert len(read_log(log)) == len(done) + 3


# --- what cannot go on ---------------------------------------------------------------------------------------------


class NotANumber(Regression):
    def forward(self, batch):
        loss = super().forward(batch)
        return loss * float("nan") if self.calls == 14 else loss


def test_a_nan_loss_stops_the_run_and_names_step_rates_and_samples(straight, tmp_path):
    dataset = Rows()
    with pytest.raises(FloatingPointError) as caught:
        run(tmp_path, objective=NotANumber(), dataset=dataset)
    message = str(caught.value)
    assert "nan at step 7" in message
    assert "slow 0.0" in message
    assert "fast 0.0" in message
    assert f"samples {dataset.seen[26:28]}" in message
    last = checkpoint.existing(tmp_path / "checkpoints")[-1]
    assert str(last) in message
    saved = checkpoint.load(last)
    assert saved.step == 6
    assert all(t.isfinite().all() for t in [*saved.weights.values(), *saved.ema.values()])
    assert losses(run(tmp_path, resume=True)[1]) == losses(straight[1])


def test_a_poisoned_record_is_left_out_by_choice_when_the_run_is_resumed(pixart, sd15, tmp_path, capsys):
    def go(resume, skip):
        torch.manual_seed(0)
        objective, dataset = denoising(pixart, sd15, rates=LearningRates(1e-3, 1e-2, 1e-3))
        dataset.tensors["latents"][4, 0, 0, 0] = float("nan")
        options = {"batch_size": 2, "checkpoint_every": 2, "skip_nonfinite": skip, "tensorboard": False}
        rows = train(objective, dataset, TrainingConfig(samples=12, **options), tmp_path, resume=resume)
        return objective.adapter, rows

    with pytest.raises(FloatingPointError, match=r"nan at step .* add --training\.skip_nonfinite 1\.$"):
        go(resume=False, skip=0)
    with pytest.raises(FloatingPointError, match=r"add --training\.skip_nonfinite 2\.$"):
        go(resume=True, skip=1)  # the record comes again in the second epoch
    adapter, rows = go(resume=True, skip=2)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and len(losses(rows)) == 4
    assert all(p.isfinite().all() for p in adapter.parameters())
    assert "the step was left out; 0 more may be (skip_nonfinite)" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.0}])
def test_a_step_that_is_left_out_changes_no_weight(tmp_path, options):
    done = run(tmp_path / "before", 24, objective=NoSlope(), ema_decay=None, schedule="constant", warmup=0, **options)[
        0
    ]
    skipped = {"skip_nonfinite": 1, "ema_decay": None, "schedule": "constant", "warmup": 0, **options}
    for objective in (NoSlope(), NotANumber()):
        assert equal(weights(run(tmp_path / type(objective).__name__, 28, objective, **skipped)[0]), weights(done))


class NoSlope(Regression):
    """A finite loss whose gradient is not a number, in the second pass of step 7."""

    def forward(self, batch):
        loss = super().forward(batch)
        return loss + (self.first.weight * 0).square().sum().sqrt() if self.calls == 14 else loss


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.0}, {"samples": 28}])
def test_nan_gradients_stop_the_run_before_they_change_weights(tmp_path, options):
    dataset, objective = Rows(), NoSlope()
    with pytest.raises(FloatingPointError) as caught:
        run(tmp_path, objective=objective, dataset=dataset, **options)
    message = str(caught.value)
    last = checkpoint.existing(tmp_path / "checkpoints")[-1]
    assert "norm of the gradients is nan at step 7" in message and f"samples {dataset.seen[24:28]}" in message
    assert last.name == "0000000024" and f"the last good checkpoint is {last}" in message
    assert all(t.isfinite().all() for t in weights(objective).values())


def test_a_step_that_the_fp16_scaler_skips_does_not_stop_the_run(tmp_path):
    accelerator = accelerator_for("no", 2)
    accelerator.scaler = torch.amp.GradScaler("cpu", enabled=False)
    rows = train(NoSlope(), Rows(), config(28), tmp_path, accelerator=accelerator)
    assert rows[-1]["step"] == 7


@pytest.mark.parametrize("name", ["batch_size", "gradient_accumulation", "checkpoint_every", "evaluate_every"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(InputError, match=rf"training\.{name} is 0; give a number of at least 1"):
        config(8, **{name: 0})


def test_a_negative_number_of_steps_to_leave_out_is_refused():
    with pytest.raises(InputError, match=r"training\.skip_nonfinite is -1; give 0 or more"):
        TrainingConfig(samples=8, skip_nonfinite=-1)


def test_a_run_is_not_overwritten(tmp_path):
    run(tmp_path, 8)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="already holds a run; pass --resume"):
        run(tmp_path)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_no_data_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="is empty"):
        run(tmp_path, dataset=Rows(0))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path):
    run(tmp_path, 8)
    other = Regression()
    other.first = nn.Linear(3, 4, bias=False)
    with pytest.raises(InputError, match="holds other parameters"):
        run(tmp_path, objective=other, resume=True)


@pytest.mark.parametrize(
    ("options", "found"), [({"batch_size": 1}, 2), ({"batch_size": 4}, 8), ({"gradient_accumulation": 1}, 2)]
)
def test_a_checkpoint_with_another_number_of_samples_per_step_is_refused(tmp_path, options, found):
    run(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=rf"0000000040 was made with 4 samples a step .* but this run takes {found};"):
        run(tmp_path, 80, resume=True, **options)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_batch_size_may_be_traded_for_accumulation_on_resume(tmp_path):
    run(tmp_path)
    assert len(losses(run(tmp_path, 48, resume=True, batch_size=4, gradient_accumulation=1)[1])) == 12


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path, 8)
    last = checkpoint.existing(tmp_path / "checkpoints")[-1]
    (last / "optimizer.pt").write_bytes(b"")
    with pytest.raises(InputError, match=f"{last} cannot be read"):
        run(tmp_path, resume=True)


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path, full_disk):
    folder = full_disk / "checkpoints"
    small, big = {"w": torch.ones(1000)}, {"w": torch.ones(100_000)}
    checkpoint.save(folder, Checkpoint(2, 8, small, {}), keep=2)
    for weights, optimizer in ((big, {}), (small, {"state": big["w"]})):
        with pytest.raises(InputError, match=r"Cannot write .*0000000016: the disk is full"):
            checkpoint.save(folder, Checkpoint(4, 16, weights, optimizer), keep=2)
        assert sorted(p.name for p in folder.iterdir()) == ["0000000008", "last"]
    found = checkpoint.load(folder / "0000000008")
    assert (found.step, found.samples) == (2, 8)
    assert equal(found.weights, small)


# --- what is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_checkpoints_are_kept(tmp_path, keep):
    run(tmp_path, keep_checkpoints=keep)
    folders = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert folders == [f"{samples:010d}" for samples in [8, 16, 24, 32, 40][-keep:]] + ["last"]


def test_the_newest_checkpoint_is_kept_even_among_later_ones(tmp_path):
    for samples in (24, 32, 8):
        checkpoint.save(tmp_path, Checkpoint(samples // 4, samples, {"w": torch.ones(1)}, {}), keep=1)
    assert [int(p.name) for p in checkpoint.existing(tmp_path)] == [8, 32]
    assert (tmp_path / "last").resolve().name == "0000000008"


def test_a_checkpoint_holds_only_trained_parameters(tmp_path):
    run(tmp_path, 8)
    folder = tmp_path / "checkpoints" / "0000000008"
    assert sorted(p.name for p in folder.iterdir()) == [
        "ema.safetensors",
        "optimizer.pt",
        "state.json",
        "weights.safetensors",
    ]
    trained = {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert set(load_file(folder / "weights.safetensors")) == trained
    assert set(load_file(folder / "ema.safetensors")) == trained


def test_without_a_moving_average_none_is_written(tmp_path):
    objective, _ = run(tmp_path, 8, ema_decay=None)
    folder = tmp_path / "checkpoints" / "0000000008"
    assert not (folder / "ema.safetensors").exists()
    assert all(
        torch.equal(weights(objective)[name], t) for name, t in load_file(folder / "weights.safetensors").items()
    )


def test_frozen_parameters_do_not_change(straight):
    assert torch.equal(straight[0].frozen.weight, Regression().frozen.weight)


def test_each_group_has_its_own_rate_and_the_schedule_warms_up(tmp_path):
    objective, _ = run(tmp_path, 4, ema_decay=None, weight_decay=0.0, warmup=0, schedule="constant")
    begin = weights(Regression())
    moved = {name: (t - begin[name]).abs().max().item() for name, t in weights(objective).items()}
    assert moved["first.weight"] == pytest.approx(1e-3, rel=1e-2)  # Adam's first step is the rate
    assert moved["second.weight"] == pytest.approx(1e-2, rel=1e-2)
    still, _ = run(tmp_path / "warm", 4, ema_decay=None, weight_decay=0.0, warmup=10)
    assert equal(weights(still), begin)  # the first rate of a warm-up is zero


def test_gradient_accumulation_is_one_bigger_batch(tmp_path):
    small, _ = run(tmp_path / "a", objective=Regression(noise=0.0), batch_size=2, gradient_accumulation=2)
    big, _ = run(tmp_path / "b", objective=Regression(noise=0.0), batch_size=4, gradient_accumulation=1)
    for name, t in weights(big).items():
        torch.testing.assert_close(weights(small)[name], t, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_epoch_takes_every_row_once_in_a_new_order(seed):
    whole = EpochShuffle(7, seed).take(0, 21).view(3, 7)
    assert all(sorted(epoch.tolist()) == list(range(7)) for epoch in whole)
    assert len({tuple(e.tolist()) for e in whole}) == 3
    for start in (0, 5, 7, 13):
        assert torch.equal(EpochShuffle(7, seed).take(start, 5), whole.flatten()[start : start + 5])


# --- two processes -------------------------------------------------------------------------------------------------


def _two(output):
    torch.set_num_threads(1)
    AcceleratorState._reset_state(True)  # what the parent process has set up is not ours
    objective, _ = run(
        output,
        24,
        objective=Regression(noise=0.0),
        batch_size=2,
        gradient_accumulation=1,
        ema_decay=None,
        max_grad_norm=0.0,
    )
    state = PartialState()
    assert state.num_processes == 2
    torch.save(weights(objective), f"{output}/{state.process_index}.pt")


def test_two_processes_train_as_one_with_twice_the_batch_size(tmp_path):
    debug_launcher(_two, args=(str(tmp_path / "two"),), num_processes=2)
    one, _ = run(
        tmp_path / "one",
        24,
        objective=Regression(noise=0.0),
        batch_size=4,
        gradient_accumulation=1,
        ema_decay=None,
        max_grad_norm=0.0,
    )
    found = [torch.load(tmp_path / "two" / f"{i}.pt", weights_only=True) for i in range(2)]
    assert equal(*found)
    for name, t in weights(one).items():
        torch.testing.assert_close(found[0][name], t, atol=1e-6, rtol=1e-5)
    saved = load_file(tmp_path / "two" / "checkpoints" / "0000000024" / "weights.safetensors")
    assert all(torch.equal(found[0][name], t) for name, t in saved.items())
    assert len(read_log(tmp_path / "two" / "log.csv")) == 6


# --- denoising -----------------------------------------------------------------------------------------------------


def denoising(pipe, source_pipe=None, **options):
    own = backbone_for(tiny_models.with_own_denoiser(pipe))
    adapter = (
        tiny_models.ip_adapter(pipe)
        if source_pipe is None
        else tiny_models.a4a(tiny_models.ip_adapter(source_pipe), pipe)
    )
    return Denoising(own, adapter, ObjectiveConfig(**options)), tiny_models.Samples(own)


def train_denoising(pipe, source_pipe, output, samples, resume=False, ema_decay=0.5):
    torch.manual_seed(0)
    objective, dataset = denoising(pipe, source_pipe, rates=LearningRates(1e-3, 1e-2, 1e-3))
    options = {"batch_size": 2, "checkpoint_every": 4, "ema_decay": ema_decay, "tensorboard": False}
    model = SavedModel("adapter", lambda folder, _: objective.adapter.save_pretrained(folder))
    training = TrainingConfig(samples=samples, **options)
    rows = train(objective, dataset, training, output, resume=resume, model=model)
    return objective.adapter, losses(rows)


def test_denoising_resumes_bit_for_bit(pipe, sd15, tmp_path):
    straight = train_denoising(pipe, sd15, tmp_path / "a", 8)
    train_denoising(pipe, sd15, tmp_path / "b", 4)
    resumed = train_denoising(pipe, sd15, tmp_path / "b", 8, resume=True)
    assert straight[1] == resumed[1]
    assert equal(weights(straight[0]), weights(resumed[0]))
    saved = set(load_file(tmp_path / "a" / "checkpoints" / "0000000008" / "weights.safetensors"))
    assert saved == {f"adapter.{name}" for name in weights(straight[0]) if name.startswith("mapping.")}


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_checkpoint_is_an_adapter_of_the_averaged_weights(pixart, sd15, tmp_path, ema_decay):
    trained, _ = train_denoising(pixart, sd15, tmp_path, 8, ema_decay=ema_decay)
    folder = tmp_path / "checkpoints" / "last"
    assert equal(weights(load_adapter(folder)), weights(trained))
    raw, names = (
        folder / "weights.safetensors",
        {f"adapter.{n}" for n, p in trained.named_parameters() if p.requires_grad},
    )
    assert not (folder / "ema.safetensors").exists() and raw.exists() == bool(ema_decay)
    loaded = checkpoint.load(folder)
    assert set(loaded.weights) == names and (loaded.ema is None) == (ema_decay is None)
    resumed = train_denoising(pixart, sd15, tmp_path, 16, resume=True, ema_decay=ema_decay)
    whole = train_denoising(pixart, sd15, tmp_path / "whole", 16, ema_decay=ema_decay)
    assert resumed[1] == whole[1] and equal(weights(resumed[0]), weights(whole[0]))


def test_gradient_checkpointing_changes_no_gradient(pipe, sd15):
    found = []
    for checkpointing in (False, True):
        objective, dataset = denoising(pipe, sd15, gradient_checkpointing=checkpointing)
        objective.denoiser.train()
        torch.manual_seed(0)
        objective(dataset.batch(torch.arange(3))).backward()
        found.append([p.grad for p in objective.parameters() if p.requires_grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)


def test_gradient_checkpointing_of_a_model_that_cannot_is_refused(sd15, hunyuan_dit):
    with pytest.raises(InputError, match="diffusers' HunyuanDiT2DModel cannot recompute its blocks; set it to false"):
        denoising(hunyuan_dit, sd15, gradient_checkpointing=True)


def test_conditions_are_dropped_at_the_configured_rates(sd15):
    objective, dataset = denoising(sd15, dropping=ConditionDropout(image=0.1, text=0.2, both=0.3))
    seen = {"image": [], "text": []}
    empty = backbone_for(sd15).no_text()["states"]
    objective.adapter.forward = lambda embeds: (
        seen["image"].append((embeds == 0).all(1)) or tiny_models.ip_adapter(sd15)(embeds)
    )
    objective.injection.set = lambda *_: None
    objective._backbone.predict = lambda noisy, _t, text, _sizes: (
        seen["text"].append((text["states"] == empty).all(2).all(1)) or noisy.requires_grad_()
    )
    torch.manual_seed(0)
    count = 4000
    objective(dataset.batch(torch.randint(0, 6, (count,))))
    image, text = torch.cat(seen["image"]), torch.cat(seen["text"])
    for what, rate in ((image & ~text, 0.1), (text & ~image, 0.2), (image & text, 0.3), (~image & ~text, 0.4)):
        assert abs(what.float().mean() - rate) < 4 * (rate * (1 - rate) / count) ** 0.5


def test_without_dropout_no_condition_is_dropped(sd15):
    objective, dataset = denoising(sd15, dropping=ConditionDropout(0.0, 0.0, 0.0))
    seen = []
    forward = objective.adapter.forward
    objective.adapter.forward = lambda embeds: seen.append(embeds) or forward(embeds)
    batch = dataset.batch(torch.arange(6))
    objective(batch)
    assert torch.equal(seen[0], batch["embeds"])
