"""`a4a report`: one page from a folder of experiments and evaluations: curves, tables, claims, pictures, costs."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from a4a.errors import InputError
from a4a.experiment import Claim
from a4a.files import replacing
from a4a.images import grid, open_image
from a4a.metrics.statistics import Estimate, over_subjects, paired
from a4a.plots import Curve, curves
from a4a.training.loop import read_log

Arrays = dict[str, np.ndarray]


@dataclass
class Method:
    """One method's final scores, over all of its seeds."""

    name: str
    seeds: int
    scores: Arrays
    """[subjects, generations] or [subjects], mean over seeds."""
    by_seed: list[Arrays]
    alone: dict[str, Estimate]
    """Scores that belong to all pictures together."""
    cost: dict
    pictures: Path


@dataclass
class Section:
    """What the page shows of one experiment or evaluation."""

    title: str
    says: str
    plots: list[tuple[str, str]]
    tables: list[list[list[str]]]
    """Rows of cells, the head first; one without rows is not shown."""
    claims: list[tuple[str, str, str]]
    """In words, what was found (holds, does not hold), and the figures."""
    picture: Image.Image | None
    columns: list[str]
    note: str
    folder: str


def report(runs: Path, output: Path = Path("report"), title: str = "Results", shown: int = 8) -> None:
    """Make one self-contained HTML page and a Markdown file from all experiments and evaluations below a folder.

    Args:
        runs: Folder with outputs of `a4a experiment` and `a4a evaluate`.
        output: Folder for index.html, README.md and the pictures and plots of the latter.
        title: Of the page.
        shown: Subjects in each grid of pictures.
    """
    runs, output = Path(runs), Path(output)
    experiments = sorted(p.parent for p in runs.rglob("experiment.json"))
    inside = {e / "final" for e in experiments}
    evaluations = sorted(p.parent for p in runs.rglob("results.json") if p.parent not in inside)
    if not experiments and not evaluations:
        raise InputError(f"{runs} holds no finished experiment or evaluation; run `a4a experiment` or `a4a evaluate` with an output below it.")
    sections = [_experiment(e, shown) for e in experiments] + [_evaluation(e, shown) for e in evaluations]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string((Path(__file__).parent / "report.html").read_text())
    summary = [(s.title, says, verdict) for s in sections for says, verdict, _ in s.claims]
    with replacing(output / "index.html") as beside:
        beside.write_text(page.render(title=title, sections=sections, summary=summary, embed=_embed))
    with replacing(output / "README.md") as beside:
        beside.write_text("\n".join(_markdown(title, summary, sections, output)))
    print(f"{len(sections)} sections are in {output / 'index.html'} and {output / 'README.md'}")


# --- what was measured ------------------------------------------------------------------------------------------------


def _experiment(folder: Path, shown: int) -> Section:
    about = json.loads((folder / "experiment.json").read_text())
    logs = {name: _logs(folder / short, about["seeds"]) for name, short in about["variants"].items()}
    logs = {name: found for name, found in logs.items() if found}
    methods, results = _methods(folder / "final", list(about["variants"])) if (folder / "final" / "results.json").exists() else ({}, None)
    plots = []
    for score in about["scores"]:
        lines = [_curve(name, found, score) for name, found in logs.items()]
        levels = {m.name: _estimate(m, score).mean for m in methods.values() if m.name not in logs and score in m.scores}
        drawn = curves(about["title"], f"{score}, validation", [line for line in lines if line.samples], levels)
        plots.append((f"{folder.name}-{score}", drawn))
    claims = [_decide(Claim(**c), methods, logs) for c in about["claims"]]
    speeds = {name: np.mean([rows[-1]["samples_per_second"] for rows in found]) for name, found in logs.items()}
    note = f"Seeds {', '.join(map(str, about['seeds']))}. " + (_note(results) if results else "")
    note += " ".join(f"{name}: {speed:.0f} training samples a second." for name, speed in speeds.items())
    trained = {name: int(found[0][-1]["samples"]) for name, found in logs.items()}
    return Section(
        about["title"], about["says"], plots, [_table(methods, trained)], claims, *_pictures(methods, folder / "final", shown), note, folder.name
    )


def _evaluation(folder: Path, shown: int) -> Section:
    methods, results = _methods(folder, [])
    tables = [_table(methods, {}), _differences(results)]
    return Section(results["title"], results["says"], [], tables, [], *_pictures(methods, folder, shown), _note(results), folder.name)


def _note(results: dict) -> str:
    task = results["task"]
    return f"{task['subjects']} subjects x {task['generations']} pictures, noise seed {task['seed']}; 95 % bootstrap intervals over subjects. {results['machine']}. "


def _logs(folder: Path, seeds: list[int]) -> list[list[dict[str, float]]]:
    return [read_log(file) for seed in seeds if (file := folder / f"seed{seed}" / "log.csv").exists()]


def _methods(folder: Path, variants: list[str]) -> tuple[dict[str, Method], dict]:
    """Methods by name; those called "NAME, seed N" of one variant are one."""
    results = json.loads((folder / "results.json").read_text())
    groups: dict[str, list[str]] = {}
    for name in results["methods"]:
        stem = name.rpartition(", seed ")[0]
        groups.setdefault(stem if stem in variants else name, []).append(name)
    methods = {}
    for name, members in groups.items():
        entries = [results["methods"][m] for m in members]
        values = [json.loads((folder / e["folder"] / "scores.json").read_text()) for e in entries]
        by_seed = [{k: np.array(v, dtype=float) for k, v in value.items() if not isinstance(v, dict)} for value in values]
        scores = {k: np.mean([s[k] for s in by_seed], axis=0) for k in by_seed[0]}
        alone = {k: Estimate(**v) for k, v in values[0].items() if isinstance(v, dict)}
        methods[name] = Method(name, len(members), scores, by_seed, alone, entries[0], folder / entries[0]["folder"] / "pictures")
    return methods, results


def _estimate(method: Method, score: str) -> Estimate:
    return method.alone[score] if score in method.alone else over_subjects(method.scores[score])


def _table(methods: dict[str, Method], trained: dict[str, int]) -> list[list[str]]:
    if not methods:
        return []
    names = list(dict.fromkeys(n for m in methods.values() for n in (*m.scores, *m.alone)))
    rows = [["method", "samples", "seeds", *names, "parameters", "base calls", "s a picture"]]
    for method in methods.values():
        cells = [str(_estimate(method, n)) if n in method.scores or n in method.alone else "" for n in names]
        seconds, samples = method.cost["seconds_per_picture"], trained.get(method.name)
        cost = [f"{method.cost['parameters']:,}", str(method.cost["base_calls"]), f"{seconds:.2f}" if seconds is not None else ""]
        rows.append([method.name, f"{samples:,}" if samples else "", str(method.seeds), *cells, *cost])
    return rows


def _differences(results: dict) -> list[list[str]]:
    """Of an evaluation's methods to the one that it is held against, in pairs of pictures."""
    found = {name: method["against"] for name, method in results["methods"].items() if method.get("against")}
    names = list(dict.fromkeys(n for scores in found.values() for n in scores))
    rows = [[name, *(str(Estimate(**scores[n])) if n in scores else "" for n in names)] for name, scores in found.items()]
    return [[f"minus {results['against']}", *names], *rows] if found else []


# --- curves and claims ------------------------------------------------------------------------------------------------


def _points(found: list[list[dict[str, float]]], score: str) -> Iterator[tuple[float, float, float, float]]:
    """Samples, mean, low, high: over seeds where there are several, over subjects where there is one."""
    tables = [{r["samples"]: r for r in rows if score in r} for rows in found]
    for samples in sorted(set.intersection(*(set(t) for t in tables))):
        values = [t[samples][score] for t in tables]
        only = tables[0][samples]
        ends = (min(values), max(values)) if len(values) > 1 else (only.get(f"{score}.low", values[0]), only.get(f"{score}.high", values[0]))
        yield samples, float(np.mean(values)), *ends


def _curve(name: str, found: list[list[dict[str, float]]], score: str) -> Curve:
    points = list(_points(found, score))
    columns = [list(c) for c in zip(*points, strict=True)] if points else [[], [], [], []]
    return Curve(name, columns[0], columns[1], low=columns[2], high=columns[3])


def _decide(claim: Claim, methods: dict[str, Method], logs: dict[str, list]) -> tuple[str, str, str]:
    if claim.kind in ("above", "not_above"):
        if claim.a not in methods or claim.b not in methods:
            return claim.says, "not measured", ""
        difference = paired(methods[claim.a].scores[claim.score], methods[claim.b].scores[claim.score])
        seeds = ""
        if methods[claim.a].seeds > 1:
            each = [np.nanmean(s[claim.score]) for s in methods[claim.a].by_seed]
            seeds = f"; {claim.a} by seed: {', '.join(f'{e:.3f}' for e in each)}"
        holds = difference.low > 0 if claim.kind == "above" else difference.low <= 0
        return claim.says, _verdict(holds), f"{claim.score}, {claim.a} minus {claim.b}: {difference}{seeds}"
    if claim.a not in logs:
        return claim.says, "not measured", ""
    a = {s: (mean, low, high) for s, mean, low, high in _points(logs[claim.a], claim.score)}
    if claim.kind == "always_above":
        if claim.b not in logs:
            return claim.says, "not measured", ""
        b = {s: mean for s, mean, _, _ in _points(logs[claim.b], claim.score)}
        common = [s for s in a if s in b and s > 0]
        above = [s for s in common if a[s][0] > b[s]]
        return (
            claim.says,
            _verdict(len(common) > 0 and len(above) == len(common)),
            f"{claim.a} is above at {len(above)} of {len(common)} sample counts",
        )
    if claim.b in logs:
        points = list(_points(logs[claim.b], claim.score))
        wanted, other = points[-1][1], points[-1][0]
    elif claim.b in methods:
        wanted, other = _estimate(methods[claim.b], claim.score).mean, None
    else:
        return claim.says, "not measured", ""
    crossing = next((s for s in sorted(a) if a[s][0] >= wanted), None)
    if crossing is None:
        best = max(mean for mean, _, _ in a.values())
        return claim.says, _verdict(False), f"{claim.a} comes to {best:.3f} of {wanted:.3f}"
    factor = f", {other / crossing:.1f} times fewer than {claim.b}'s {other:,.0f}" if other and crossing else ""
    return claim.says, _verdict(True), f"{claim.a} reaches {wanted:.3f} at {crossing:,.0f} samples{factor}"


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"


# --- pages ------------------------------------------------------------------------------------------------------------


def _pictures(methods: dict[str, Method], folder: Path, shown: int) -> tuple[Image.Image | None, list[str]]:
    """References in the first column, then a column for each method: the first picture of each subject."""
    if not methods:
        return None, []
    task = json.loads((folder / "task.json").read_text())
    rows = range(min(shown, task["subjects"]))
    references = [open_image(folder / "references" / f"{s:05d}.png") for s in rows]
    drawn = [[open_image(m.pictures / f"{s * task['generations']:05d}.png") for s in rows] for m in methods.values()]
    side = max(96, drawn[0][0].width) if drawn[0][0].width <= 256 else 256
    cells = [[p.resize((side, side)) for p in row] for row in zip(references, *drawn, strict=True)]
    return grid(cells), ["reference", *methods]


def _embed(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _markdown(title: str, summary: list[tuple[str, str, str]], sections: list[Section], output: Path) -> Iterator[str]:
    yield f"# {title}\n"
    if summary:
        yield "## In short\n\n| claim | verdict | decided in |\n|---|---|---|"
        for decided_in, says, verdict in summary:
            yield f"| {says} | {verdict} | {decided_in} |"
        yield ""
    for section in sections:
        yield f"## {section.title}\n"
        if section.says:
            yield section.says + "\n"
        for name, svg in section.plots:
            with replacing(output / f"{name}.svg") as beside:
                beside.write_text(svg)
            yield f"![{name}]({name}.svg)\n"
        for head, *rows in filter(None, section.tables):
            yield "| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|"
            for row in rows:
                yield "| " + " | ".join(row) + " |"
            yield ""
        for says, verdict, figures in section.claims:
            yield f"- {says} **{verdict}**" + (f" ({figures})" if figures else "")
        if section.picture is not None:
            file = f"{section.folder}.png"
            with replacing(output / file) as beside:
                section.picture.save(beside, format="PNG")
            yield f"\n![{', '.join(section.columns)}]({file})\n\nColumns: {', '.join(section.columns)}."
        yield f"\n{section.note}\n"
