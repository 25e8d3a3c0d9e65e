"""The third tab: a transfer on the zoo, watched while it runs, and used in the first tab when it is done."""

from typing import Any

import gradio as gr

from a4a.training.log import read_log
from a4a.web.app.catalogue import AdapterChoice
from a4a.web.app.errors import shown_as_sentences
from a4a.web.app.generate_tab import GenerateTab
from a4a.web.app.parts import bar, heading, note
from a4a.web.app.session import Session, Studio
from a4a.web.app.transfers import SAMPLES, Progress, Transfer, Transfers
from a4a.web.pages import data_url, render
from a4a.web.plots import KNOWN_COLOURS, Curve, Level, curves
from a4a.zoo.registry import MODELS, figures

EVERY = 2.0
"""Seconds between two looks at a transfer."""
TEXT = (
    "Train an adapter for a model that it was not made for, on drawn creatures, with both models frozen. A4A starts from "
    "the source adapter; from scratch means the same training without it. Minutes on two cores."
)


def transfer_tab(studio: Studio, transfers: Transfers, session: gr.State, inputs: GenerateTab, tabs: gr.Tabs) -> None:
    """Lays out the tab and says what its buttons do."""
    gr.HTML(heading("Watch a transfer", TEXT))
    choices = [(_title(name, stage), name) for name, stage in transfers.stages.items()]
    with gr.Row(elem_classes="a4a-buttons"):
        stage = gr.Dropdown(choices, value=choices[0][1], label="What to train", min_width=240, scale=2,
                            elem_id="stage")  # fmt: skip
        samples = gr.Dropdown(
            list(SAMPLES), value=SAMPLES[-2], label="Training samples", min_width=120, elem_id="samples"
        )
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, min_width=100)
        start = gr.Button("Start", variant="primary", min_width=100, elem_id="start")
        stop = gr.Button("Stop", min_width=80, elem_id="transfer-stop")
    status = gr.HTML(note("Nothing is running."), elem_id="transfer-status")
    use = gr.Button("Use it in the first tab", interactive=False, elem_id="use")
    view = gr.HTML(elem_id="transfer-view")
    timer = gr.Timer(EVERY, active=False)
    seen = gr.State((-1, False))
    watched = [status, view, use, timer, seen]
    quiet: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}

    def begin(name: str, count: int, number: int, visitor: Session) -> tuple:
        with shown_as_sentences():
            visitor.transfer = transfers.start(visitor.owner, name, int(count), int(number or 0))
        return note("Starting."), "", gr.Button(interactive=False), gr.Timer(active=True), (-1, False), visitor

    def watch(visitor: Session, last: tuple[int, bool]) -> tuple:
        transfer = transfers.find(visitor.transfer)
        if transfer is None:
            return note("Nothing is running."), gr.skip(), gr.skip(), gr.Timer(active=False), gr.skip()
        progress = transfer.progress()
        now = (len(progress.rows), progress.running)
        picture = gr.skip() if now == last else _view(transfer, progress, transfers.stages)
        done = gr.Button(interactive=progress.adapter is not None)
        return _words(progress), picture, done, gr.Timer(active=progress.running), now

    def end(visitor: Session) -> tuple:
        transfer = transfers.find(visitor.transfer)
        if transfer is not None and transfer.process.poll() is None:
            transfer.stop()
        return note("Stopped."), gr.Timer(active=False)

    start.click(begin, [stage, samples, seed, session], [*watched, session], **quiet)
    timer.tick(watch, [session, seen], watched, **quiet)
    stop.click(end, session, [status, timer], **quiet)
    use.click(
        lambda visitor: _use(studio, transfers, visitor),
        session,
        [inputs.model, inputs.adapter, session, tabs],
        **quiet,
    )


def _title(name: str, stage: dict[str, Any]) -> str:
    return f"{'A4A' if 'source' in stage else 'From scratch'} for {stage['model']}"


def _use(studio: Studio, transfers: Transfers, visitor: Session) -> tuple:
    """Adds the adapter to the visitor's own and chooses it in the first tab."""
    transfer = transfers.find(visitor.transfer)
    progress = transfer.progress() if transfer is not None else None
    if transfer is None or progress is None or progress.adapter is None:
        raise gr.Error("There is no finished transfer; start one.", print_exception=False)
    own = visitor.adapters.get(transfer.model, ())
    path = str(progress.adapter)
    mine = next((adapter for adapter in own if adapter.path == path), None)
    if mine is None:
        method = _title(transfer.stage, transfers.stages[transfer.stage]).partition(" for ")[0]
        mine = AdapterChoice(f"Yours {len(own) + 1}: {method}, {transfer.total:,} samples", path)
        visitor.adapters[transfer.model] = own = (*own, mine)
    labels = [adapter.label for adapter in (*studio.catalogue.model(transfer.model).adapters, *own)]
    return transfer.model, gr.Dropdown(labels, value=mine.label), visitor, gr.Tabs(selected="generate")


def _words(progress: Progress) -> str:
    if progress.failure is not None:
        return note(f"The transfer failed: {progress.failure}")
    if not progress.running:
        done = progress.adapter is not None
        return note(f"Done: {progress.total:,} samples in {progress.seconds:.0f} s." if done else "Stopped.")
    if not progress.rows:
        return bar(0, f"Loading models and encoding the creatures, {progress.seconds:.0f} s")
    return bar(
        progress.samples / progress.total,
        f"{progress.samples:,} of {progress.total:,} samples, {progress.seconds:.0f} s",
    )


def _view(transfer: Transfer, progress: Progress, stages: dict[str, dict[str, Any]]) -> str:
    """The curve of the run beside those that the zoo was built with, and its sample pictures."""
    if not progress.rows:
        return ""
    columns = []
    references: list[str] = []
    for samples, grid in transfer.samples():
        side = grid.height // 2
        cells = [grid.crop((i * side, 0, (i + 1) * side, grid.height)) for i in range(grid.width // side)]
        references = [data_url(cell.crop((0, 0, side, side))) for cell in cells]
        columns.append((samples, [data_url(cell.crop((0, side, side, 2 * side))) for cell in cells]))
    return render("transfer.html", plot=_plot(transfer, progress, stages), references=references, columns=columns)


def _plot(transfer: Transfer, progress: Progress, stages: dict[str, dict[str, Any]]) -> str:
    """An SVG of identity against samples."""
    own = "A4A" if "source" in stages[transfer.stage] else "IP-Adapter*"
    lines = [_curve(f"{own}, this run", progress.rows, own, live=True)]
    for name, stage in stages.items():
        log = MODELS / name / "log.csv"
        if stage["model"] == transfer.model and log.is_file():
            kind = "A4A" if "source" in stage else "IP-Adapter*"
            rows = [row for row in read_log(log) if "identity" in row and row["samples"] <= 2 * transfer.total]
            lines.append(_curve(f"{kind}, recorded", rows, kind))
    sources = {stage["source"] for stage in stages.values() if "source" in stage}
    pta = "PTA on its base"
    levels = [Level(pta, figures(name)["identity"]["mean"], KNOWN_COLOURS[pta]) for name in sorted(sources)]
    return curves(f"To {transfer.model}", "identity, validation subjects", lines, levels)


def _curve(label: str, rows: list[dict[str, float]], kind: str, live: bool = False) -> Curve:
    return Curve(label, [row["samples"] for row in rows], [row["identity"] for row in rows], KNOWN_COLOURS[kind], live)
