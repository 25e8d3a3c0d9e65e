"""`a4a report`: one page from a folder of experiments and evaluations: curves, tables, claims, pictures, costs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from a4a.errors import InputError
from a4a.evaluation.tables import difference_rows, markdown_table
from a4a.experiments.claims import Claim, Evidence, decide
from a4a.experiments.results import Log, MethodResult, learning_curve, read_logs, read_results
from a4a.utils.files import atomic_write
from a4a.utils.images import grid, open_image
from a4a.web.pages import data_url
from a4a.web.plots import Curve, curves


@dataclass
class Section:
    """What the page shows of one experiment or evaluation."""

    title: str
    description: str
    plots: list[tuple[str, str]]
    tables: list[list[list[str]]]
    """Rows of cells, the head first; one without rows is not shown."""
    claims: list[tuple[str, str, str]]
    """In words, what was found (holds, does not hold, cannot be told), and the figures."""
    picture: Image.Image | None
    columns: list[str]
    note: str
    folder: str


def report(runs: Path, output: Path = Path("report"), title: str = "Results", grid_subjects: int = 8) -> None:
    """Make one self-contained HTML page and a Markdown file from all experiments and evaluations below a folder.

    Args:
        runs: Folder with outputs of `a4a experiment` and `a4a evaluate`.
        output: Folder for index.html, README.md and the pictures and plots of the latter.
        title: Of the page.
        shown: Subjects in each grid of pictures.
    """
    runs, output = Path(runs), Path(output)
    experiments = sorted(p.parent for p in runs.rglob("experiment.json"))
    inside = {e / part for e in experiments for part in ("final", "validation")}
    evaluations = sorted(p.parent for p in runs.rglob("results.json") if p.parent not in inside)
    if not experiments and not evaluations:
        raise InputError(
            f"{runs} holds no finished experiment or evaluation; run `a4a experiment` or `a4a evaluate` with an output below it."
        )
    sections = [_experiment(e, _name(e, runs), grid_subjects) for e in experiments] + [
        _evaluation(e, _name(e, runs), grid_subjects) for e in evaluations
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string((Path(__file__).parent / "report.html").read_text())
    summary = [(s.title, description, verdict) for s in sections for description, verdict, _ in s.claims]
    with atomic_write(output / "index.html") as beside:
        beside.write_text(page.render(title=title, sections=sections, summary=summary, embed=data_url))
    with atomic_write(output / "README.md") as beside:
        beside.write_text("\n".join(_markdown(title, summary, sections, output)))
    print(f"{len(sections)} sections are in {output / 'index.html'} and {output / 'README.md'}")


def _name(folder: Path, runs: Path) -> str:
    """A section's, for its files: two folders of one name are two sections."""
    return "-".join(folder.relative_to(runs).parts) or folder.name


# --- what was measured ------------------------------------------------------------------------------------------------


def _experiment(folder: Path, called: str, grid_subjects: int) -> Section:
    about = json.loads((folder / "experiment.json").read_text())
    logs = {name: read_logs(folder / short, about["seeds"]) for name, short in about["variants"].items()}
    logs = {name: found for name, found in logs.items() if found}
    methods, results = (
        read_results(folder / "final", list(about["variants"]))
        if (folder / "final" / "results.json").exists()
        else ({}, None)
    )
    others = read_results(folder / "validation")[0] if (folder / "validation" / "results.json").exists() else {}
    plots = []
    for score in about["scores"]:
        lines = [_curve(name, found, score) for name, found in logs.items()]
        levels = {m.name: m.estimate(score).mean for m in others.values() if score in m.scores}
        drawn = curves(about["title"], f"{score}, validation", [line for line in lines if line.samples], levels)
        plots.append((f"{called}-{score}", drawn))
    evidence = Evidence(methods, logs, others)
    verdicts = [(c["description"], decide(Claim(**c), evidence)) for c in about["claims"]]
    claims = [(description, decided.verdict, decided.figures) for description, decided in verdicts]
    speeds = {name: np.mean([rows[-1]["samples_per_second"] for rows in found]) for name, found in logs.items()}
    note = f"Seeds {', '.join(map(str, about['seeds']))}. " + (_note(results) if results else "")
    note += " ".join(f"{name}: {speed:.0f} training samples a second." for name, speed in speeds.items())
    trained = {name: int(found[0][-1]["samples"]) for name, found in logs.items()}
    return Section(
        about["title"],
        about["description"],
        plots,
        [_table(methods, trained)],
        claims,
        *_pictures(methods, folder / "final", grid_subjects),
        note,
        called,
    )


def _evaluation(folder: Path, called: str, grid_subjects: int) -> Section:
    methods, results = read_results(folder)
    tables = [_table(methods, {}), difference_rows(results)]
    return Section(
        results["title"],
        results["description"],
        [],
        tables,
        [],
        *_pictures(methods, folder, grid_subjects),
        _note(results),
        called,
    )


def _note(results: dict) -> str:
    task = results["task"]
    return f"{task['subjects']} subjects x {task['generations']} pictures, noise seed {task['seed']}; 95 % intervals: bootstrap over subjects for scores, over training seeds and subjects for differences. {results['machine']}; seconds as the machine was then. "


def _table(methods: dict[str, MethodResult], trained: dict[str, int]) -> list[list[str]]:
    if not methods:
        return []
    names = list(dict.fromkeys(n for m in methods.values() for n in (*m.scores, *m.set_scores)))
    memory = any(m.cost["peak_gpu_bytes"] for m in methods.values())
    rows = [
        [
            "method",
            "samples",
            "seeds",
            *names,
            "parameters",
            "base calls",
            "s/image",
            *(["GPU GB"] if memory else []),
        ]
    ]
    for method in methods.values():
        cells = [str(method.estimate(n)) if n in method.scores or n in method.set_scores else "" for n in names]
        seconds, samples = method.cost["seconds_per_image"], trained.get(method.name)
        cost = [
            f"{method.cost['parameters']:,}",
            str(method.cost["base_calls"]),
            f"{seconds:.2f}" if seconds is not None else "",
        ]
        if memory:
            cost.append(f"{(method.cost['peak_gpu_bytes'] or 0) / 1e9:.1f}")
        rows.append([method.name, f"{samples:,}" if samples else "", str(method.seeds), *cells, *cost])
    return rows


def _curve(name: str, logs: list[Log], score: str) -> Curve:
    points = learning_curve(logs, score)
    low, high = [p.low for p in points], [p.high for p in points]
    return Curve(name, [p.samples for p in points], [p.mean for p in points], low=low, high=high)


# --- pages ------------------------------------------------------------------------------------------------------------


def _pictures(
    methods: dict[str, MethodResult], folder: Path, grid_subjects: int
) -> tuple[Image.Image | None, list[str]]:
    """References in the first column, then a column for each method: the first picture of each subject."""
    if not methods:
        return None, []
    task = json.loads((folder / "task.json").read_text())
    rows = range(min(grid_subjects, task["subjects"]))
    references = [open_image(folder / "references" / f"{s:05d}.png") for s in rows]
    drawn = [[open_image(m.images / f"{s * task['generations']:05d}.png") for s in rows] for m in methods.values()]
    side = max(96, drawn[0][0].width) if drawn[0][0].width <= 256 else 256
    cells = [[p.resize((side, side)) for p in row] for row in zip(references, *drawn, strict=True)]
    return grid(cells), ["reference", *methods]


def _markdown(title: str, summary: list[tuple[str, str, str]], sections: list[Section], output: Path) -> Iterator[str]:
    yield f"# {title}\n"
    if summary:
        yield "## In short\n\n| claim | verdict | decided in |\n|---|---|---|"
        for decided_in, description, verdict in summary:
            yield f"| {description} | {verdict} | {decided_in} |"
        yield ""
    for section in sections:
        yield f"## {section.title}\n"
        if section.description:
            yield section.description + "\n"
        for name, svg in section.plots:
            with atomic_write(output / f"{name}.svg") as beside:
                beside.write_text(svg)
            yield f"![{name}]({name}.svg)\n"
        for rows in filter(None, section.tables):
            yield markdown_table(rows) + "\n"
        for description, verdict, figures in section.claims:
            yield f"- {description} **{verdict}**" + (f" ({figures})" if figures else "")
        if section.picture is not None:
            file = f"{section.folder}.png"
            with atomic_write(output / file) as beside:
                section.picture.save(beside, format="PNG")
            yield f"\n![{', '.join(section.columns)}]({file})\n\nColumns: {', '.join(section.columns)}."
        yield f"\n{section.note}\n"
