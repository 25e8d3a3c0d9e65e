"""`a4a demo`: a transfer, live, and a page that shows what came of it."""

import base64
import io
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from a4a.adapters.loading import load_adapter
from a4a.backbones import load_pipeline
from a4a.encoders.clip import CLIPImageEncoder
from a4a.evaluation.metrics import Estimate
from a4a.evaluation.validation import ValidationResult, Validator
from a4a.training.config import TrainingConfig
from a4a.training.denoising import LearningRates, ObjectiveConfig
from a4a.training.log import read_log
from a4a.transfer.run import Method, transfer
from a4a.utils.files import atomic_write
from a4a.web.pages import _page
from a4a.web.plots import Curve, curves
from a4a.zoo.build import build, read_recipe
from a4a.zoo.dataset import WorldImages
from a4a.zoo.evaluation import SAMPLING, WorldTask, WorldValidator
from a4a.zoo.registry import MODELS, RECIPE, figures

ENCODER = "clip-large/image_encoder"
STRIP = (0.0, 0.25, 0.5, 1.0)


LIVE_METHOD: dict = {"rounds": 0}
LIVE_RATES: dict = {"projection": 3e-3, "mapping": 3e-3}


@dataclass(frozen=True)
class Shown:
    """A column of the picture grid: an adapter (or none) on a model."""

    title: str
    model: str
    adapter: str | None
    note: str

    @property
    def folder(self) -> str:
        return self.adapter or self.model


COLUMNS = (
    Shown(
        "PTA on its base",
        "sd15-mini",
        "ip-adapter-sd15-mini",
        "the adapter that is transferred, on the model that it was trained for",
    ),
    Shown("PixArt, text only", "pixart-mini", None, "the upgraded transformer without any adapter"),
    Shown(
        "PixArt, IP-Adapter*",
        "pixart-mini",
        "ip-adapter-pixart-mini",
        "from scratch, as many samples as A4A trained long",
    ),
    Shown("PixArt, A4A trained long", "pixart-mini", "a4a-pixart-mini", "shipped with the zoo"),
    Shown("SDXL, text only", "sdxl-mini", None, "the upgraded U-Net without any adapter"),
    Shown(
        "SDXL, PTA-UM", "sdxl-mini", "ip-adapter-sdxl-mini", "an adapter trained for this model itself, from scratch"
    ),
    Shown("SDXL, A4A", "sdxl-mini", "a4a-sdxl-mini", "shipped with the zoo"),
)
BEFORE_LIVE = "PixArt, IP-Adapter*"
LIVE = Shown("PixArt, A4A live", "pixart-mini", None, "trained just now, on this machine")


def demo(
    output: Path = Path("demo"),
    samples: int = 8_000,
    creatures: int = 4_000,
    subjects: int = 48,
    seed: int = 0,
    full: bool = False,
) -> None:
    """Transfer the zoo's adapter from a U-Net to a transformer, live, and write a page about it.

    Args:
        output: Folder for the page (index.html) and the run.
        samples: Samples of the live transfer.
        creatures: Training subjects of the live transfer, a portrait and two other drawings each.
        subjects: Test subjects that the live transfer is scored on, and as many validation subjects for its curve.
        seed: Of the live transfer.
        full: Repeat the recorded runs of the zoo too (hours) before the page is made.
    """
    output = Path(output)
    zoo = MODELS
    if full:
        zoo = output / "zoo"
        build(read_recipe(RECIPE), zoo, output / "zoo-runs")
    began = time.perf_counter()
    print(f"Transferring the PTA of sd15-mini to pixart-mini: {samples:,} samples from an untrained A4A.")
    final = WorldValidator("test", subjects, models=zoo)
    evaluation = _Strip(min(4, subjects), subjects, zoo)
    run = output / "run"
    adapter = transfer(
        model=zoo / "pixart-mini",
        source=zoo / "ip-adapter-sd15-mini",
        image_encoder=zoo / ENCODER,
        data=WorldImages("train", creatures),
        output=_fresh(run),
        method=Method(**LIVE_METHOD),
        objective=ObjectiveConfig(rates=LearningRates(**LIVE_RATES)),
        training=TrainingConfig(
            samples=samples,
            batch_size=32,
            schedule="cosine",
            warmup=20,
            evaluate_every=max(samples // 8, 1),
            checkpoint_every=samples,
            tensorboard=False,
            seed=seed,
        ),
        evaluation=evaluation,
        cache=output / "cache",
    )
    seconds = time.perf_counter() - began
    print("Drawing and scoring on test subjects.")
    encoder = CLIPImageEncoder.load(zoo / ENCODER)
    shown = [column for column in COLUMNS if _ready(zoo, column)]
    pipes = {name: load_pipeline(zoo / name) for name in dict.fromkeys(column.model for column in shown)}
    live, live_scores = final.draw_and_score(pipes["pixart-mini"], adapter, encoder)

    few = Validator(final.task.first(min(8, subjects)), [], SAMPLING, batch=50)
    columns = [("reference", "one drawing of a creature that no model has seen", few.task.references)]
    for column in shown:
        loaded = load_adapter(zoo / column.adapter) if column.adapter else None
        columns.append((column.title, column.note, few.draw(pipes[column.model], loaded, encoder)))
        if column.title == BEFORE_LIVE:
            columns.append((LIVE.title, LIVE.note, live[: len(few.task)]))

    page = _page(
        columns=[(title, note, [_embed(p) for p in pictures]) for title, note, pictures in columns],
        prompts=few.task.prompts,
        subjects=subjects,
        strip=[(share, [_embed(p) for p in evaluation.kept[i]]) for i, share in evaluation.shares()],
        strip_references=[_embed(p) for p in evaluation.strip.task.references],
        plots=_plots(run, zoo),
        table=_table(live_scores, samples, subjects, zoo),
        samples=samples,
        minutes=seconds / 60,
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        seed=seed,
    )
    with atomic_write(output / "index.html") as beside:
        beside.write_text(page)
    print(
        f"A4A live: identity {live_scores['identity']}, {live_scores['retrieval'].mean:.0%} of {subjects} subjects found. The page is {output / 'index.html'}"
    )


class _Strip(WorldValidator):
    """The validation scores of a run, and the same few test prompts and noise at every point of it."""

    def __init__(self, few: int, subjects: int, zoo: Path):
        super().__init__("validation", subjects, models=zoo)
        self.strip = Validator(WorldTask("test", subjects, 1).first(few), [], SAMPLING, batch=50)
        self.kept: list[list[Image.Image]] = []

    def __call__(self, pipe, adapter, image_encoder) -> ValidationResult:
        self.kept.append(self.strip.draw(pipe, adapter, image_encoder))
        return super().__call__(pipe, adapter, image_encoder)

    def shares(self) -> list[tuple[int, float]]:
        last = len(self.kept) - 1
        return [(round(share * last), share) for share in STRIP]


def _fresh(run: Path) -> Path:
    """The demo always starts from an untrained A4A."""
    shutil.rmtree(run, ignore_errors=True)
    return run


def _ready(zoo: Path, column: Shown) -> bool:
    """A zoo can be built in part."""
    return (zoo / column.folder / "figures.json").is_file()


def _plots(run: Path, zoo: Path) -> list[str]:
    def curve(label: str, log: Path, live: bool = False) -> Curve:
        rows = [r for r in read_log(log) if "identity" in r]
        return Curve(label, [r["samples"] for r in rows], [r["identity"] for r in rows], live)

    def recorded(name: str) -> Path:
        return zoo / name / "log.csv"

    own = figures("ip-adapter-sd15-mini", zoo)["identity"]["mean"]

    def plot(title: str, live: list[Curve], runs: dict[str, str]) -> str:
        lines = live + [
            curve(f"{label}, recorded", recorded(name)) for label, name in runs.items() if recorded(name).is_file()
        ]
        return curves(title, "identity, validation subjects", lines, {"PTA on its own base": own})

    pixart = {"A4A": "a4a-pixart-mini", "IP-Adapter*": "ip-adapter-pixart-mini"}
    sdxl = {"A4A": "a4a-sdxl-mini", "PTA-UM from scratch": "ip-adapter-sdxl-mini"}
    plots = [plot("To the transformer", [curve("A4A, live", run / "log.csv", True)], pixart)]
    return plots + ([plot("To the larger U-Net", [], sdxl)] if recorded("a4a-sdxl-mini").is_file() else [])


def _table(
    live: dict[str, Estimate], samples: int, subjects: int, zoo: Path
) -> list[tuple[str, str, str, str, str, str, str]]:
    def row(title: str, count: int | None, scores: dict[str, Estimate], pictures: str) -> tuple:
        said = [scores[name].mean for name in ("scene", "place", "size")]
        return (
            title,
            f"{count:,}" if count else "",
            str(scores["identity"]),
            f"{scores['retrieval'].mean:.0%}",
            f"{scores['clip_image'].mean:.3f}",
            f"{sum(said) / 3:.0%}",
            pictures,
        )

    names = ("identity", "retrieval", "clip_image", "scene", "place", "size")
    rows = []
    for column in COLUMNS:
        if not _ready(zoo, column):
            continue
        entry = figures(column.folder, zoo)
        rows.append(
            row(
                column.title,
                entry.get("samples") if column.adapter else None,
                {n: Estimate(**entry[n]) for n in names},
                "100 x 4",
            )
        )
        if column.title == BEFORE_LIVE:
            rows.append(row(LIVE.title, samples, live, f"{subjects} x 1"))
    ceiling = {n: Estimate(**value) for n, value in figures("ceiling", zoo).items()}
    rows.append(row("a fresh drawing (the ceiling)", None, ceiling, "100 x 4"))
    return rows


def _embed(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
