"""The fourth tab: the recorded runs, as the page that `a4a report` makes of them, or as the zoo holds them."""

import html
from pathlib import Path

import gradio as gr

import a4a
from a4a.errors import InputError
from a4a.web.app.parts import heading
from a4a.web.demo import METRICS_HEAD, recorded_plots, score_table
from a4a.web.pages import render
from a4a.zoo.registry import MODELS

RECORDED = Path(a4a.__file__).parents[2] / "docs" / "results"
"""Of a checkout of the repository; an installed package has none."""


def find_report(folder: Path | None) -> Path | None:
    """The page of a report; InputError where the given folder has none."""
    page = (RECORDED if folder is None else Path(folder)) / "index.html"
    if page.is_file():
        return page
    if folder is not None:
        raise InputError(f"{folder} has no index.html; give the --output of a4a report.")
    return None


def report_tab(tab: gr.Tab, page: Path | None, zoo: bool) -> None:
    """Lays out the tab. Its content is sent when it is first looked at: it is large."""
    if page is None and not zoo:
        gr.HTML(heading("No recorded runs", "Give --report FOLDER, the output of a4a report, to see one here."))
        return
    content = gr.HTML(heading("Recorded runs", "Loading."), elem_id="report")
    tab.select(lambda: _framed(page) if page is not None else _zoo_runs(), None, content, queue=False,
               api_visibility="private")  # fmt: skip


def _framed(page: Path) -> str:
    """The page in a frame that can run nothing."""
    return (
        f'<iframe class="a4a-report" title="The report of recorded runs" sandbox="allow-same-origin" '
        f'srcdoc="{html.escape(page.read_text(), quote=True)}"></iframe>'
    )


def _zoo_runs() -> str:
    """Curves and scores with which the zoo was shipped."""
    return render("zoo_runs.html", plots=recorded_plots(MODELS), head=METRICS_HEAD, rows=score_table(MODELS))
