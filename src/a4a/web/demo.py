"""`a4a demo`: a live transfer in miniature, and a page that shows the result beside the recorded runs of the zoo."""

import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.loading import load_adapter
from a4a.backbones import load_pipeline
from a4a.encoders.base import ImageEncoder
from a4a.encoders.clip import CLIPImageEncoder
from a4a.evaluation.statistics import Estimate
from a4a.evaluation.validation import ValidationResult, Validator
from a4a.training.config import TrainingConfig
from a4a.training.denoising import LearningRates, ObjectiveConfig
from a4a.training.log import read_log
from a4a.transfer.config import A4AConfig, Precision, TransferSettings
from a4a.transfer.run import train_adapter
from a4a.utils.files import atomic_write
from a4a.web.pages import data_url, render
from a4a.web.plots import KNOWN_COLOURS, Curve, Level, curves
from a4a.zoo.build import build, read_recipe
from a4a.zoo.dataset import WorldImages
from a4a.zoo.evaluation import SAMPLING, WorldTask, WorldValidator
from a4a.zoo.registry import MODELS, RECIPE, figures

IMAGE_ENCODER = "clip-large/image_encoder"
EVALUATED = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the live run at which it is scored, besides its start and its end: the curve rises early."""
SHOWN = (0, 1 / 16, 1 / 4, 1)
"""Shares of the live run at which the page shows images."""
METRICS_HEAD = ("method", "samples", "identity [95 %]", "found", "CLIP", "as prompted")
"""Heads of the columns of `score_table`."""
METRICS = ("identity", "retrieval", "clip_image", "scene", "place", "size")


@dataclass(frozen=True)
class Column:
    """A column of the image grid: a model, with an adapter or without."""

    title: str
    model: str
    adapter: str | None
    note: str

    @property
    def folder(self) -> str:
        """The folder in the zoo whose figures the table shows."""
        return self.adapter or self.model


PTA = "ip-adapter-plus-sd15-mini"
COLUMNS = (
    Column("PTA on its base", "sd15-mini", PTA, "the adapter that is transferred, on the model it was trained for"),
    Column("PixArt, text only", "pixart-mini", None, "the upgraded transformer without any adapter"),
    Column(
        "PixArt, IP-Adapter*",
        "pixart-mini",
        "ip-adapter-plus-pixart-mini",
        "from scratch, with as many samples as the recorded A4A",
    ),
    Column("PixArt, A4A recorded", "pixart-mini", "a4a-plus-pixart-mini", "ships with the zoo"),
    Column("SDXL, text only", "sdxl-mini", None, "the upgraded U-Net without any adapter"),
    Column("SDXL, PTA-UM", "sdxl-mini", "ip-adapter-plus-sdxl-mini", "an adapter trained for this model, from scratch"),
    Column("SDXL, A4A", "sdxl-mini", "a4a-plus-sdxl-mini", "ships with the zoo"),
)
LIVE = Column("PixArt, A4A live", "pixart-mini", None, "trained just now, on this machine")
LIVE_FOLLOWS = "PixArt, IP-Adapter*"
"""Title of the column that the live one comes after."""


def demo(
    output: Path = Path("demo"),
    samples: int = 3_200,
    creatures: int = 4_000,
    subjects: int = 48,
    seed: int = 0,
    full: bool = False,
) -> None:
    """Transfer the zoo's adapter from a U-Net to a transformer, live, and write a page about it.

    Args:
        output: Folder for the page (index.html) and the run.
        samples: Samples of the live transfer.
        creatures: Training subjects of the live transfer; each has a portrait and two other images.
        subjects: Test subjects that score the live transfer, and as many validation subjects for its curve.
        seed: Seed of the live transfer.
        full: Repeat the recorded runs of the zoo too (hours) before the page is made.
    """
    output, zoo = Path(output), MODELS
    if full:
        zoo = output / "zoo"
        build(read_recipe(RECIPE), zoo, output / "zoo-runs")
    print(f"Transferring the adapter of sd15-mini to pixart-mini: {samples:,} samples from an untrained A4A.")
    began = time.perf_counter()
    progress = ProgressValidator(min(4, subjects), subjects, zoo)
    adapter = transfer_live(output, samples, creatures, seed, zoo, progress)
    minutes = (time.perf_counter() - began) / 60

    print("Generating and scoring test subjects.")
    encoder = CLIPImageEncoder.from_pretrained(zoo / IMAGE_ENCODER)
    test = WorldValidator("test", subjects, models=zoo)
    live_images, live_scores = test.generate_and_score(load_pipeline(zoo / LIVE.model), adapter, encoder)
    preview = Validator(test.task.first(min(8, subjects)), [], SAMPLING, batch=50)

    page = render(
        "demo.html",
        columns=[
            (title, note, list(map(data_url, images))) for title, note, images in _grid(preview, live_images, zoo)
        ],
        prompts=preview.task.prompts,
        subjects=subjects,
        progress=[(count, list(map(data_url, images))) for count, images in _progress(output, progress)],
        progress_references=list(map(data_url, progress.preview.task.references)),
        plots=recorded_plots(zoo, output / "run" / "log.csv"),
        live=_same_subjects(test, live_scores, samples, zoo, encoder),
        table=score_table(zoo),
        samples=samples,
        minutes=minutes,
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        seed=seed,
    )
    with atomic_write(output / "index.html") as temporary:
        temporary.write_text(page)
    print(
        f"A4A live: identity {live_scores['identity']}, "
        f"found {live_scores['retrieval'].mean:.0%} of {subjects} subjects."
    )


def transfer_live(
    output: Path, samples: int, creatures: int, seed: int, zoo: Path, validator: Validator
) -> ImagePromptAdapter:
    """Train an A4A from scratch; an earlier run in the folder is removed, so that the demo never resumes."""
    shutil.rmtree(output / "run", ignore_errors=True)
    settings = TransferSettings(
        model=zoo / "pixart-mini",
        image_encoder=zoo / IMAGE_ENCODER,
        source=zoo / PTA,
        method=A4AConfig(rounds=0),
        objective=ObjectiveConfig(rates=LearningRates(projection=1e-3, mapping=1e-3)),
        training=TrainingConfig(
            samples=samples,
            batch_size=8,
            warmup=20,
            ema_decay=0.999,
            evaluate_at=[round(share * samples) for share in EVALUATED],
            checkpoint_every=samples,
            tensorboard=False,
            seed=seed,
        ),
        precision=Precision(),
    )
    return train_adapter(settings, WorldImages("train", creatures), output / "run", validator, output / "cache")


class ProgressValidator(WorldValidator):
    """Scores a run, and keeps images of a few test subjects, with the same prompts and noise every time."""

    def __init__(self, preview_subjects: int, subjects: int, zoo: Path):
        super().__init__("validation", subjects, models=zoo)
        self.preview = Validator(WorldTask("test", subjects, 1).first(preview_subjects), [], SAMPLING, batch=50)
        self.images: list[list[Image.Image]] = []

    def __call__(
        self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: ImageEncoder | None
    ) -> ValidationResult:
        self.images.append(self.preview.generate(pipe, adapter, image_encoder))
        return super().__call__(pipe, adapter, image_encoder)


def _progress(output: Path, validator: ProgressValidator) -> Iterator[tuple[int, list[Image.Image]]]:
    """Sample counts, and the images of the live run after them."""
    counts = [int(row["samples"]) for row in read_log(output / "run" / "log.csv") if "identity" in row]
    for share in SHOWN:
        index = min(range(len(counts)), key=lambda i: abs(counts[i] - share * counts[-1]))
        yield counts[index], validator.images[index]


def _built(zoo: Path) -> list[Column]:
    """The columns whose models are there: a zoo can be built in part."""
    return [column for column in COLUMNS if (zoo / column.folder / "figures.json").is_file()]


def _grid(
    preview: Validator, live_images: list[Image.Image], zoo: Path
) -> Iterator[tuple[str, str, list[Image.Image]]]:
    """Title, note and images of each column."""
    encoder = CLIPImageEncoder.from_pretrained(zoo / IMAGE_ENCODER)
    yield "reference", "one image of a creature that no model has seen", preview.task.references
    for column in _built(zoo):
        adapter = load_adapter(zoo / column.adapter) if column.adapter else None
        yield column.title, column.note, preview.generate(load_pipeline(zoo / column.model), adapter, encoder)
        if column.title == LIVE_FOLLOWS:
            yield LIVE.title, LIVE.note, live_images[: len(preview.task)]


def recorded_plots(zoo: Path, live_log: Path | None = None) -> list[str]:
    """SVGs of identity against samples: the recorded runs for each upgraded model, and the live one where there is one."""

    def curve(method: str, log: Path, live: bool = False) -> Curve:
        rows = [r for r in read_log(log) if "identity" in r]
        label = f"{method}, {'live' if live else 'recorded'}"
        return Curve(label, [r["samples"] for r in rows], [r["identity"] for r in rows], KNOWN_COLOURS[method], live)

    def recorded(folders: dict[str, str]) -> list[Curve]:
        logs = {label: zoo / folder / "log.csv" for label, folder in folders.items()}
        return [curve(label, log) for label, log in logs.items() if log.is_file()]

    pta = "PTA on its base"
    level = [Level(pta, figures(PTA, zoo)["identity"]["mean"], KNOWN_COLOURS[pta])]
    to_pixart = recorded({"A4A": "a4a-plus-pixart-mini", "IP-Adapter*": "ip-adapter-plus-pixart-mini"})
    if live_log is not None:
        to_pixart.insert(0, curve("A4A", live_log, live=True))
    to_sdxl = recorded({"A4A": "a4a-plus-sdxl-mini", "PTA-UM": "ip-adapter-plus-sdxl-mini"})
    plots = {"To the transformer": to_pixart, "To the larger U-Net": to_sdxl}
    return [curves(title, "identity, validation subjects", lines, level) for title, lines in plots.items() if lines]


def _row(title: str, count: int | None, scores: dict[str, Estimate]) -> list[str]:
    """Title, samples and scores as the page shows them."""
    as_prompted = sum(scores[name].mean for name in ("scene", "place", "size")) / 3
    return [
        title,
        f"{count:,}" if count else "",
        str(scores["identity"]),
        f"{scores['retrieval'].mean:.0%}",
        f"{scores['clip_image'].mean:.3f}",
        f"{as_prompted:.0%}",
    ]


def _same_subjects(
    test: WorldValidator, live: dict[str, Estimate], samples: int, zoo: Path, encoder: ImageEncoder
) -> list[list[str]]:
    """Rows for the page: the live run among the transformer's recorded adapters, all on the live run's subjects."""
    rows = []
    for column in _built(zoo):
        if column.adapter and column.model in ("sd15-mini", LIVE.model):
            adapter = load_adapter(zoo / column.adapter)
            _, scores = test.generate_and_score(load_pipeline(zoo / column.model), adapter, encoder)
            rows.append(_row(column.title, figures(column.folder, zoo)["samples"], scores))
        if column.title == LIVE_FOLLOWS:
            rows.append(_row(LIVE.title, samples, live))
    return rows


def score_table(zoo: Path) -> list[list[str]]:
    """The recorded figures of the zoo, then the ceiling, as rows below METRICS_HEAD."""
    rows = []
    for column in _built(zoo):
        entry = figures(column.folder, zoo)
        scores = {name: Estimate(**entry[name]) for name in METRICS}
        rows.append(_row(column.title, entry.get("samples") if column.adapter else None, scores))
    ceiling = {name: Estimate(**value) for name, value in figures("ceiling", zoo).items()}
    return [*rows, _row("a fresh drawing (the ceiling)", None, ceiling)]
