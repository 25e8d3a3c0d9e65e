"""The last lines of a command: where things are, what comes next, how to go on; or what a failed run lacked."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from a4a.errors import first_line
from a4a.utils.arguments import read_recipe

Values = dict[str, Any]


def ending(name: str, values: Values) -> str:
    """One to three lines; nothing for commands that write their own, and for JSON, which programs read."""
    lines = ENDINGS.get(name)
    return "" if lines is None or values.get("json") else lines(values)


def _prepare(values: Values) -> str:
    return (
        f"Next: a4a transfer --config RECIPE --data {values['output']} --output runs/mine\n"
        "More images: add them to the source and prepare into another folder."
    )


def _plan(values: Values) -> str:
    recipe = values["recipe"]
    content = read_recipe(recipe)
    if "recipe" in content:
        return f"Next: a4a experiment --config {recipe} --output runs/mine"
    check = f"then a4a check {recipe} (minutes), " if "check" in content else ""
    return (
        f"Next: a4a transfer --config {recipe} --dry_run (two steps on random weights, no download), "
        f"{check}then without --dry_run."
    )


def _check(values: Values) -> str:
    return (
        "All is as expected; check.json and the images of every step are in the output folder: look at them, too.\n"
        f"Next: a4a transfer --config {values['recipe']}"
    )


def _transfer(values: Values) -> str:
    if values["dry_run"]:
        return (
            "Nothing was downloaded, and nothing trained was kept. To train: the same command without --dry_run.\n"
            "Hours of the whole run at a GPU's rate: a4a plan --config RECIPE --samples_per_second RATE"
        )
    output, model = values["output"], values["model"]
    return (
        f"The adapter is in {output}/adapter; losses and scores are in {output}/log.csv.\n"
        f"Next: a4a generate --adapter {output}/adapter --model {model} --image photo.png "
        '--prompt "a dog on a beach" --output pictures\n'
        "To train longer: the same command with --resume and more --training.samples."
    )


def _x_adapter(values: Values) -> str:
    return (
        f"The mapper is in {values['output']}/x_adapter; the losses are in {values['output']}/log.csv.\n"
        "Next: name it in a recipe of a4a evaluate, as recipes/paper/table1.yaml does.\n"
        "To train longer: the same command with --resume and more --training.samples."
    )


def _evaluate(values: Values) -> str:
    return (
        f"Images, scores.csv, results.json and table.md are in {values['output']}.\n{_report(values['output'])}\n"
        "Another method or metric: add it and run again; what is drawn stays."
    )


def _experiment(values: Values) -> str:
    return (
        f"Runs and scores are in {values['output']}.\n{_report(values['output'])}\n"
        "Another variant or seed: add it and run again; what is trained stays."
    )


def _report(output: Path) -> str:
    return f"Next: a4a report {output} --output {output}/report"


def _report_page(values: Values) -> str:
    return f"Open {values['output']}/index.html in a browser; README.md beside it is for a repository."


def _demo(values: Values) -> str:
    return (
        f"Open {values['output']}/index.html in a browser. The adapter is in {values['output']}/run/adapter.\n"
        f"Next: a4a generate --adapter {values['output']}/run/adapter --model zoo:pixart-mini --image photo.png "
        '--prompt "a small creature in the snow" --output pictures'
    )


ENDINGS: dict[str, Callable[[Values], str]] = {
    "prepare": _prepare,
    "plan": _plan,
    "check": _check,
    "transfer": _transfer,
    "x-adapter": _x_adapter,
    "evaluate": _evaluate,
    "experiment": _experiment,
    "report": _report_page,
    "demo": _demo,
}


TRAINING = (
    "lower training.batch_size and raise training.gradient_accumulation, set objective.gradient_checkpointing to true, "
    "or precision.frozen to int8; a4a plan says what fits"
)
LESS_MEMORY = {
    "check": TRAINING,
    "transfer": TRAINING,
    "experiment": TRAINING,
    "x-adapter": (
        "set --frozen bfloat16 and --gradient_checkpointing, or lower training.batch_size and raise "
        "training.gradient_accumulation"
    ),
    "prepare": "lower encode.batch or caption.batch",
    "generate": "lower --count, or --height and --width",
    "evaluate": "lower --batch",
}
"""What needs less memory, by command."""


def failure(name: str, error: BaseException) -> str | None:
    """One sentence where memory or the hub failed a command; None for all else, whose traceback is needed."""
    if needed := _out_of_memory(error):
        return f"{needed}; {LESS_MEMORY.get(name, 'end other programs that use it, or use a larger machine')}."
    if (cause := _hub_error(error)) is not None:
        return (
            f"The hub did not give what this command needs ({first_line(cause)}); check the connection and the name, "
            "and run `hf auth login` for a model with terms to accept. What is downloaded already is kept."
        )
    return None


def _out_of_memory(error: BaseException) -> str | None:
    """Which memory ran out, and how much more was asked for."""
    text = str(error)
    on_gpu = type(error).__name__ == "OutOfMemoryError"  # torch's; without importing torch
    if not on_gpu and not isinstance(error, MemoryError) and "can't allocate memory" not in text:
        return None
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", text)
    return f"{'The GPU' if on_gpu else 'This machine'} is out of memory{f' ({asked[1]} more were needed)' if asked else ''}"


def _hub_error(error: BaseException) -> BaseException | None:
    """The error of the hub or the connection that is behind an error."""
    hub, http = sys.modules.get("huggingface_hub.errors"), sys.modules.get("httpx")
    kinds = (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) if hub else ()
    kinds += (http.TransportError,) if http else ()
    return next((e for e in _chain(error) if isinstance(e, kinds)), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
