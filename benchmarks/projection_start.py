"""Figures on A4A's projection, in miniature: `python benchmarks/projection_start.py [TRAINING_SAMPLES]`.

- How wrong features are in 16 bits and in TF32, as a part of what tells references apart (the worst site): of the zoo's
  A4A (Plus), and of untrained ones (base family) whose pseudo-inverse leaves out singular values below a part (`rtol`) of the largest.
- How much larger held-out conditions are than those that the whitening was made of, by number of references, and how
  even their directions are (1: all alike), with the plain covariance and with the shrunk one.
- With TRAINING_SAMPLES, the identity of 96 validation subjects after that many samples, by rtol.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from a4a.adapters.a4a import A4A
from a4a.adapters.conditioning import condition_number
from a4a.adapters.loading import load_adapter
from a4a.adapters.whitening import shrunk_covariance
from a4a.backbones.meta import load_meta_model
from a4a.data.base import EncodedDataset
from a4a.encoders.clip import CLIPImageEncoder
from a4a.training.config import TrainingConfig
from a4a.training.denoising import LearningRates, ObjectiveConfig
from a4a.training.log import read_log
from a4a.transfer.config import A4AConfig, Precision, TransferSettings
from a4a.transfer.run import train_adapter
from a4a.utils.files import write_json
from a4a.utils.machine import machine
from a4a.zoo.dataset import WorldImages, draw_bytes
from a4a.zoo.evaluation import WorldValidator
from a4a.zoo.world import Subjects, Views

MODEL, SOURCE, ENCODER = "zoo:pixart-mini", "zoo:ip-adapter-sd15-mini", "zoo:clip-large/image_encoder"
RESULTS = Path(__file__).parent / "results" / "projection_start.json"
RTOLS = (None, 1e-3, 1e-2, 1e-1)
HELD_OUT = 400


def to_tf32(values: Tensor) -> Tensor:
    """float32 rounded to the 10 bits of mantissa that TF32 multiplies."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def rounded_weights(adapter: A4A, dtype: torch.dtype, make: str | None = None) -> A4A:
    """A copy of the adapter with source and projection as if held in `dtype`; computed in float32 all the same."""
    copy = load_copy(adapter)
    for module in (copy.source, *copy.mapping.projections):
        for parameter in module.parameters():
            parameter.copy_(parameter.to(dtype).float() if make is None else to_tf32(parameter))
    return copy


def load_copy(adapter: A4A) -> A4A:
    with tempfile.TemporaryDirectory() as folder:
        adapter.save_pretrained(folder)
        return A4A.from_pretrained(folder).eval()


def worst_error(exact: A4A, other: A4A, embeds: Tensor) -> float:
    right, wrong = (f.keys + f.values for f in (exact(embeds), other(embeds)))
    pairs = [(a.double(), b.double()) for a, b in zip(right, wrong, strict=True)]
    return max(float((b - a).norm() / (a - a.mean(0)).norm()) for a, b in pairs)


def precision_errors(adapter: A4A, embeds: Tensor) -> dict[str, float]:
    adapter.eval()
    tf32 = rounded_weights(adapter, torch.float32, "tf32")
    for module in (tf32.source, *tf32.mapping.projections):
        for linear in module.modules():
            if isinstance(linear, nn.Linear):
                linear.register_forward_pre_hook(lambda _, inputs: (to_tf32(inputs[0]),))
    others = {
        "bfloat16": rounded_weights(adapter, torch.bfloat16),
        "float16": rounded_weights(adapter, torch.float16),
        "tf32": tf32,
    }
    errors = {name: round(worst_error(adapter, other, embeds), 4) for name, other in others.items()}
    largest = max(float(p.abs().max()) for m in adapter.mapping.projections for p in m.parameters())
    return {**errors, "largest weight": round(largest, 1)}


def held_out_figures(fit: Tensor, held_out: Tensor, covariance: Tensor) -> dict[str, float]:
    """`fit`, `held_out`: condition tokens [references, tokens, width]."""
    variance, directions = torch.linalg.eigh(covariance)
    whitening = directions * variance.clamp(min=1e-3 * float(variance[-1])).rsqrt()
    mean = fit.mean((0, 1))
    own, new = ((c.flatten(0, 1) - mean) @ whitening for c in (fit, held_out))
    spread = torch.linalg.eigvalsh(new.T.cov())
    evenness = float(spread.sum() ** 2 / (len(spread) * spread.square().sum()))
    return {"held out / fit": round(float(new.norm(dim=1).mean() / own.norm(dim=1).mean()), 2), "even": evenness}


def synthetic_conditions(count: int, width: int = 384) -> Tensor:
    """As a real source's image projection makes them: wider than the miniature's, of a power-law spectrum."""
    torch.manual_seed(0)
    project, spectrum = torch.randn(4 * width, 512) / 23, torch.arange(1, 513.0) ** -0.25
    embeds = torch.randn(count, 512) * spectrum + 0.3 * torch.randn(512)
    return torch.nn.functional.layer_norm((embeds @ project.T).view(count, 4, width), (width,))


def few_references(conditions: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    figures = {}
    for name, condition in conditions.items():
        held_out, rest = condition[:HELD_OUT], condition[HELD_OUT:]
        for count in (20, 100, 500, len(rest)):
            fit = rest[:count]
            for kind, covariance in (("plain", fit.flatten(0, 1).T.cov()), ("shrunk", shrunk_covariance(fit))):
                figures[f"{name}, {count} references, {kind}"] = held_out_figures(fit, held_out, covariance)
    return figures


def trained_identity(rtol: float | None, samples: int, folder: Path) -> dict[str, float]:
    class Start(A4AConfig):
        def init_from_data(self, adapter: A4A, dataset: EncodedDataset) -> None:
            adapter.init_projection(dataset.references(4096), rtol)

    rates = LearningRates(projection=3e-3, mapping=3e-3)
    training = TrainingConfig(samples=samples, batch_size=32, schedule="cosine", warmup=50, seed=5, tensorboard=False)
    settings = TransferSettings(
        MODEL, ENCODER, SOURCE, Start(rounds=0), ObjectiveConfig(rates=rates), training, Precision()
    )
    output, validator = folder / str(rtol), WorldValidator("validation", 96)
    train_adapter(settings, WorldImages("train", 4000), output, validator, folder / "cache")
    last = read_log(output / "log.csv")[-1]
    return {name: last[name] for name in ("identity", "identity.low", "identity.high")}


def main() -> None:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    torch.set_num_threads(1)
    results: dict = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with torch.no_grad():
        source, encoder = load_adapter(SOURCE), CLIPImageEncoder.from_pretrained(ENCODER)
        drawings = draw_bytes(Subjects.sample(3000, "train"), Views.sample(3000, 205).as_portraits())
        embeds = torch.cat([encoder(part.float() / 255) for part in drawings.split(250)])
        numbers = [condition_number(layer.weight) for half in source.key_value_layers() for layer in half]
        tokens = CLIPImageEncoder.from_pretrained(ENCODER, output="tokens")(drawings[:HELD_OUT].float() / 255)
        precision = {"zoo's A4A": precision_errors(A4A.from_pretrained("zoo:a4a-plus-pixart-mini"), tokens)}
        for rtol in RTOLS:
            torch.manual_seed(5)
            adapter = A4A.from_source(source, load_meta_model(MODEL).backbone.sites, rounds=0)
            adapter.init_projection(embeds[HELD_OUT:], rtol)
            precision[f"untrained, rtol {rtol}"] = precision_errors(adapter, embeds[:HELD_OUT])
        conditions = {"miniature": source.image_projection()(embeds), "synthetic": synthetic_conditions(1400)}
        results |= {"machine": machine(), "condition numbers": [round(n, 1) for n in sorted(numbers)]}
        results |= {"feature error": precision, "whitening": few_references(conditions)}
    write_json(RESULTS, results, indent=1)
    if samples:
        with tempfile.TemporaryDirectory() as folder:
            trained = {f"rtol {rtol}": trained_identity(rtol, samples, Path(folder)) for rtol in (None, 1e-2)}
        write_json(RESULTS, results | {f"identity after {samples} samples": trained}, indent=1)
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
