"""Tables of an evaluation: one value a row as CSV, means with their intervals as Markdown."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from a4a.evaluation.metrics.base import Scores
from a4a.evaluation.statistics import Estimate
from a4a.evaluation.tasks.base import Task
from a4a.utils.files import atomic_write

Rows = list[list[str]]
"""Cells of a table; the first row is the head."""


def write_csv(file: Path, task: Task, scores: Mapping[str, Scores]) -> None:
    """Write every score of every method: a row for each image, for each subject, or for the whole set."""
    with atomic_write(file) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["method", "score", "subject", "generation", "prompt", "value"])
        for method, named_scores in scores.items():
            for score, values in named_scores.items():
                writer.writerows([method, score, *cells] for cells in _csv_cells(task, values))


def _csv_cells(task: Task, values: np.ndarray | Estimate) -> Iterator[tuple]:
    """Subject, generation, prompt and value; empty where a score is not of one image or one subject."""
    if isinstance(values, Estimate):
        yield "", "", "", values.mean
    elif values.ndim == 1:
        for subject, value in zip(task.subjects, values, strict=True):
            yield subject, "", "", value
    else:
        for s, g in np.ndindex(*values.shape):
            yield task.subjects[s], g, task.prompts[s * task.generations + g], values[s, g]


def results_markdown(results: dict[str, Any]) -> str:
    """What `a4a evaluate` prints and keeps as `table.md`: scores, differences from the baseline, and the task."""
    task = results["task"]
    parts = [markdown_table(_score_rows(results["methods"]))]
    if results["baseline"]:
        rows = difference_rows(results)
        parts += [f"Differences from {results['baseline']}, paired by image:", markdown_table(rows)]
    parts.append(
        f"{task['subjects']} subjects x {task['generations']} images, seed {task['seed']}; means with 95 % bootstrap "
        f"intervals over subjects; {results['machine']}."
    )
    return "\n\n".join(parts) + "\n"


def _score_rows(entries: dict[str, dict[str, Any]]) -> Rows:
    """A method a row, a score a column."""
    names = _score_names(entry["scores"] for entry in entries.values())
    rows = [["", *names, "base calls", "s/image"]]
    for method, entry in entries.items():
        seconds = entry["seconds_per_image"]
        cells = [str(Estimate(**entry["scores"][n])) if n in entry["scores"] else "" for n in names]
        rows.append([method, *cells, str(entry["base_calls"]), "" if seconds is None else f"{seconds:.2f}"])
    return rows


def difference_rows(results: dict[str, Any]) -> Rows:
    """How much each method's scores differ from the baseline's; no rows without a baseline."""
    differences = {n: entry["baseline"] for n, entry in results["methods"].items() if entry.get("baseline")}
    if not differences:
        return []
    names = _score_names(differences.values())
    rows = [[f"minus {results['baseline']}", *names]]
    for method, scores in differences.items():
        rows.append([method, *(Estimate(**scores[n]).signed() if n in scores else "" for n in names)])
    return rows


def _score_names(scores: Iterable[dict[str, Any]]) -> list[str]:
    """The names of all scores, each once, in the order in which they first appear."""
    return list(dict.fromkeys(name for named in scores for name in named))


def markdown_table(rows: Rows) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])
