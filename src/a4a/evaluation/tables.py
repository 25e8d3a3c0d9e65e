"""Tables of an evaluation: Markdown and CSV."""

import csv
from pathlib import Path

import numpy as np

from a4a.evaluation.metrics.base import Scores
from a4a.evaluation.statistics import Estimate
from a4a.evaluation.tasks.base import Task
from a4a.utils.files import atomic_write


def _write_csv(file: Path, task: Task, values: dict[str, Scores]) -> None:
    """A line for each picture, method and score."""
    with atomic_write(file) as beside, beside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["method", "score", "subject", "generation", "prompt", "value"])
        for method, scores in values.items():
            for name, array in scores.items():
                if isinstance(array, Estimate):
                    writer.writerow([method, name, "", "", "", array.mean])
                    continue
                cells = array[:, None] if array.ndim == 1 else array
                for s, g in np.ndindex(*cells.shape):
                    prompt = task.prompts[s * task.generations + g] if array.ndim == 2 else ""
                    writer.writerow([method, name, task.subjects[s], g if array.ndim == 2 else "", prompt, cells[s, g]])


def table(results: dict) -> str:
    """Markdown: a method a row, a score a column."""
    methods: dict[str, dict] = results["methods"]
    names = list(dict.fromkeys(n for m in methods.values() for n in m["scores"]))
    task = results["task"]
    lines = ["| | " + " | ".join(names) + " | base calls | s a picture |", "|---" * (len(names) + 3) + "|"]
    for name, method in methods.items():
        cells = [str(Estimate(**method["scores"][n])) if n in method["scores"] else "" for n in names]
        seconds = method["seconds_per_picture"]
        lines.append(
            f"| {name} | "
            + " | ".join(cells)
            + f" | {method['base_calls']} | {f'{seconds:.2f}' if seconds is not None else ''} |"
        )
    note = f"{task['subjects']} subjects x {task['generations']} pictures, seed {task['seed']}; means with 95 % bootstrap intervals over subjects; {results['machine']}."
    if results["baseline"]:
        lines += [
            "",
            f"Differences to {results['baseline']}, picture by picture:",
            "",
            "| | " + " | ".join(names) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for name, method in methods.items():
            if name != results["baseline"]:
                cells = [_signed(Estimate(**method["baseline"][n])) if n in method["baseline"] else "" for n in names]
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", note, ""])


def _signed(e: Estimate) -> str:
    return f"{e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"
