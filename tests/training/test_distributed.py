"""Two processes, started for real: what one process with twice the batch does, exactly resumed, and ended together."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import a4a.transfer.config
import tiny_models
from a4a.backbones import backbone_for
from a4a.errors import InputError
from a4a.training import checkpoint
from a4a.training import state as training_state
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, LearningRates, ObjectiveConfig
from a4a.training.distributed import exclude_frozen_from_ddp, shard
from a4a.training.log import read_log
from a4a.training.sampler import BucketBatchSampler, EpochShuffle, mix_seed
from a4a.training.trainer import train
from a4a.transfer.config import A4AConfig, Precision, TransferSettings
from a4a.transfer.dry_run import dry_run
from two_processes import TwoProcesses

sys.path.append(str(Path(__file__).parent))
from toy_runs import Regression, Rows, config


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """`launched(function, *arguments)` runs `function(process, *arguments)` in two processes."""
    processes = TwoProcesses(tmp_path_factory.mktemp("processes"))
    yield processes
    processes.stop()


def weights(objective):
    return {name: p.detach().clone() for name, p in objective.named_parameters() if p.requires_grad}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def losses(rows):
    return [r["loss"] for r in rows if "loss" in r]


# --- the same as one --------------------------------------------------------------------------------------------------


def _rows_seen(process, output):
    dataset = Rows(20)
    train(Regression(), dataset, config(40, gradient_accumulation=1), output)
    torch.save(dataset.seen, f"{output}/seen{process}.pt")


def test_two_processes_together_see_each_row_once_an_epoch(launched, tmp_path):
    launched(_rows_seen, str(tmp_path))
    first, second = (torch.load(tmp_path / f"seen{i}.pt") for i in range(2))
    sample = [0, 10, 19]  # rows that the two compare at the start
    assert first[:3] == second[:3] == sample
    first, second = first[3:], second[3:]
    for epoch in range(2):
        seen = first[10 * epoch : 10 * epoch + 10] + second[10 * epoch : 10 * epoch + 10]
        assert sorted(seen) == list(range(20))


def denoising(**options):
    pipe = tiny_models.pixart()
    backbone = backbone_for(pipe)
    options = {"rates": LearningRates(1e-3, 1e-2, 1e-3), **options}
    return Denoising(
        backbone, tiny_models.a4a(tiny_models.ip_adapter(tiny_models.sd15()), pipe), ObjectiveConfig(**options)
    ), tiny_models.Samples(backbone)


PLAIN = TrainingConfig(samples=4, batch_size=2, weight_decay=0.0, max_grad_norm=0.0, tensorboard=False)


def _descent(groups):
    """Plain gradient descent: AdamW's first step is a sign, even of a gradient that is rounding (a bias of keys)."""
    return torch.optim.SGD([{**group, "lr": 1.0} for group in groups])


def _one_step(process, output):
    objective, dataset = denoising()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_state, "optimizer_for", lambda kind, groups, weight_decay, device: _descent(groups))
        train(objective, dataset, PLAIN, output)
    torch.save(weights(objective), f"{output}/{process}.pt")


def test_a_step_of_two_processes_uses_the_mean_of_their_gradients(launched, tmp_path):
    """Each process draws its own noise, so one with twice the batch differs; the step is that of the mean loss."""
    launched(_one_step, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{i}.pt") for i in range(2))
    assert equal(first, second)
    objective, dataset = denoising()
    before = weights(objective)
    objective.train()
    rows = EpochShuffle(6, PLAIN.seed).take(0, 4)
    optimizer = _descent(objective.parameter_groups())
    for process in range(2):
        torch.manual_seed(mix_seed(PLAIN.seed, 0, process))
        (objective(dataset.batch(rows[process::2])) / 2).backward()
    optimizer.step()
    for name, t in weights(objective).items():
        torch.testing.assert_close(first[name] - before[name], t - before[name], atol=1e-6, rtol=1e-3)


def _spread_gradients(process, output):
    found, counts = [], []
    for how in ("whole", "spread"):
        objective, dataset = denoising()
        if how == "spread":
            shard(objective.denoiser, "BasicTransformerBlock")
            counts.append(_held(objective.denoiser))
            objective.denoiser.register_forward_hook(lambda denoiser, *_: counts.append(_held(denoiser)))
        exclude_frozen_from_ddp(objective)
        torch.manual_seed(process)
        nn.parallel.DistributedDataParallel(objective)(dataset.batch(torch.tensor([process, 2]))).backward()
        found.append([p.grad for p in objective.parameters() if p.grad is not None])
    torch.save(found, f"{output}/{process}.pt")
    torch.save(counts, f"{output}/counts{process}.pt")


def _held(denoiser):
    """Numbers of the denoiser that this process holds now."""
    return sum(getattr(p, "_local_tensor", p).numel() for p in denoiser.parameters())


def test_a_denoiser_sharded_over_two_processes_gives_the_same_gradients(launched, tmp_path):
    launched(_spread_gradients, str(tmp_path))
    whole = sum(p.numel() for p in tiny_models.pixart().transformer.parameters())
    for process in range(2):
        plain, spread_ = torch.load(tmp_path / f"{process}.pt")
        assert all(torch.equal(a, b) for a, b in zip(plain, spread_, strict=True))
        before, after_forward = torch.load(tmp_path / f"counts{process}.pt")
        assert before == after_forward < 0.7 * whole


def _dry(process, output):
    torch.manual_seed(process)
    over = []
    settings = TransferSettings(
        "zoo:pixart-mini",
        "zoo:clip-large/image_encoder",
        "zoo:ip-adapter-sd15-mini",
        A4AConfig(rounds=1, heads=4),
        ObjectiveConfig(),
        TrainingConfig(batch_size=1),
        Precision("bfloat16", shard=True),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", output)
        patch.setattr(a4a.transfer.config, "shard", lambda *args: over.append(args) or shard(*args))
        facts = dry_run(settings, results=Path(output) / "results")
    assert facts["processes"] == 2 and len(over) == 1
    torch.save(facts["losses"], f"{output}/{process}.pt")


def test_a_dry_run_of_two_processes_leaves_only_its_results(launched, tmp_path):
    launched(_dry, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{i}.pt") for i in range(2))
    assert first == second and all(loss > 0 for loss in first)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.pt", "1.pt", "results"]


# --- stopping and going on --------------------------------------------------------------------------------------------


class Signalled(Regression):
    """Gets SIGTERM in one process at its fifth pass."""

    def __init__(self, here):
        super().__init__()
        self.here = here

    def forward(self, batch):
        if self.here and self.calls == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(batch)


def _run_through(process, output):
    objective = Regression()
    rows = train(objective, Rows(), config(48), f"{output}/straight")
    torch.save((weights(objective), losses(rows)), f"{output}/straight{process}.pt")


def _stop_and_go_on(process, output):
    try:
        train(Signalled(process == 1), Rows(), config(48), f"{output}/run")
    except SystemExit as stop:
        assert stop.code == 128 + signal.SIGTERM
    else:
        raise AssertionError("was not stopped")
    objective = Regression()
    rows = train(objective, Rows(), config(48), f"{output}/run", resume=True)
    torch.save((weights(objective), losses(rows)), f"{output}/resumed{process}.pt")


def test_a_signal_to_one_process_stops_both_and_they_resume_bit_for_bit(launched, tmp_path):
    launched(_run_through, str(tmp_path))
    launched(_stop_and_go_on, str(tmp_path))
    for process in range(2):
        straight, resumed = (torch.load(tmp_path / f"{name}{process}.pt") for name in ("straight", "resumed"))
        assert equal(straight[0], resumed[0])
        assert straight[1][-len(resumed[1]) :] == resumed[1]
    assert losses(read_log(tmp_path / "run" / "log.csv")) == losses(read_log(tmp_path / "straight" / "log.csv"))


def torchrun(output, kind, *more):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(a4a.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(Path(__file__).with_name("toy_runs.py")),
    ]
    return subprocess.Popen(
        [*run, str(output), "80", kind, *more],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_process_ends_the_other_and_leaves_a_whole_checkpoint(tmp_path):
    process = torchrun(tmp_path, "killed")  # process 1 kills itself at its 16th pass, and says when
    _, said = process.communicate(timeout=600)
    ended = time.time()
    assert process.returncode != 0, said
    assert ended - float((tmp_path / "killed").read_text()) < 60
    last = checkpoint.existing(tmp_path / "checkpoints")[-1]
    assert checkpoint.load(last).step == int(last.name) // 8
    process = torchrun(tmp_path, "plain", "resume")
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert [r["step"] for r in read_log(tmp_path / "log.csv")] == list(range(1, 11))


# --- what cannot go on ------------------------------------------------------------------------------------------------


def _differ(process, output, what):
    objective = Regression()
    if what == "parameters" and process:
        objective.first = nn.Linear(3, 4, bias=False)
    dataset = Rows(22 if what == "length" and process else 20)
    if what == "content" and process:
        dataset.x = dataset.x + 1
    try:
        train(objective, dataset, config(8), f"{output}/run")
    except InputError as error:
        Path(f"{output}/{process}.txt").write_text(str(error))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("length", "Process 1 has training samples 22 but process 0 has 20"),
        ("content", "training data"),
        ("parameters", "trained parameters"),
    ],
)
def test_processes_with_different_data_are_refused(launched, tmp_path, what, said):
    launched(_differ, str(tmp_path), what)
    messages = [(tmp_path / f"{i}.txt").read_text() for i in range(2)]
    assert messages[0] == messages[1]
    assert said in messages[0] and "start all processes with the same recipe" in messages[0]


class NotANumber(Regression):
    def __init__(self, here):
        super().__init__()
        self.here = here

    def forward(self, batch):
        return super().forward(batch) * (float("nan") if self.here and self.calls == 5 else 1.0)


def _not_a_number(process, output):
    try:
        train(NotANumber(process == 1), Rows(), config(48), f"{output}/run")
    except FloatingPointError as error:
        Path(f"{output}/{process}.txt").write_text(str(error))


def test_a_nan_loss_in_one_process_stops_both(launched, tmp_path):
    launched(_not_a_number, str(tmp_path))
    messages = [(tmp_path / f"{i}.txt").read_text() for i in range(2)]
    assert messages[0] == messages[1]
    assert "nan at step 3" in messages[0]


def _evaluating(process, output):
    scored = []

    def evaluate(samples):
        time.sleep(0.2)
        scored.append(samples)
        return {"score": float(samples)}

    train(Regression(), Rows(), config(16, evaluate_every=8), f"{output}/run", evaluate=evaluate)
    assert scored == ([0, 8, 16] if process == 0 else [])


def test_only_the_first_process_evaluates(launched, tmp_path):
    launched(_evaluating, str(tmp_path))
    assert [r["score"] for r in read_log(tmp_path / "run" / "log.csv") if "score" in r] == [0.0, 8.0, 16.0]


# --- the order of rows ------------------------------------------------------------------------------------------------

BUCKETS = torch.tensor([0] * 8 + [3] * 4 + [7] * 12)


def test_a_batch_has_rows_of_one_bucket_and_an_epoch_has_every_row_once():
    passes = BucketBatchSampler(24, 5, 4, BUCKETS)
    order = [passes.take(i) for i in range(18)]
    assert all(len(set(BUCKETS[rows].tolist())) == 1 for rows in order)
    for epoch in range(3):
        assert sorted(torch.cat(order[6 * epoch : 6 * epoch + 6]).tolist()) == list(range(24))
    kinds = [[int(BUCKETS[rows[0]]) for rows in order[6 * e : 6 * e + 6]] for e in range(3)]
    assert kinds[0] != kinds[1] or kinds[1] != kinds[2]


def test_rows_left_over_come_first_in_the_next_epoch():
    buckets = torch.tensor([0] * 7 + [1] * 6)
    passes = BucketBatchSampler(13, 0, 4, buckets)
    seen = torch.cat([passes.take(i) for i in range(13)])  # four epochs
    counts = seen.bincount(minlength=13)
    assert counts.tolist() == [4] * 13


def test_any_batch_can_be_computed_without_those_before_it():
    straight = BucketBatchSampler(24, 5, 3, BUCKETS)
    order = [straight.take(i) for i in range(30)]
    for i in (29, 3, 17):
        assert torch.equal(BucketBatchSampler(24, 5, 3, BUCKETS).take(i), order[i])


def test_one_bucket_gives_the_same_batches_as_no_buckets():
    order, plain, one = (
        EpochShuffle(7, 3),
        BucketBatchSampler(7, 3, 4),
        BucketBatchSampler(7, 3, 4, torch.ones(7, dtype=torch.long)),
    )
    for i in range(12):
        assert torch.equal(plain.take(i), order.take(4 * i, 4))
        assert torch.equal(plain.take(i), one.take(i))


class Bucketed(Rows):
    """Rows of two widths that cannot be stacked."""

    def __init__(self):
        super().__init__(20)
        self.buckets = torch.arange(20) % 2

    def batch(self, indices):
        assert len(set((indices % 2).tolist())) == 1
        return super().batch(indices)


def test_training_batches_never_mix_buckets(tmp_path):
    train(Regression(), Bucketed(), config(40), tmp_path)
