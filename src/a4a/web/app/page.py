"""The page: its head and its tabs."""

from dataclasses import replace
from pathlib import Path

import gradio as gr

from a4a.web.app.compare_tab import compare_tab
from a4a.web.app.generate_tab import generate_tab
from a4a.web.app.report_tab import report_tab
from a4a.web.app.session import Session, Studio
from a4a.web.app.transfer_tab import transfer_tab
from a4a.web.app.transfers import Transfers

TITLE = "a4a: an image prompt for another model"
OLD = 3600
"""Pictures of visitors are removed after so many seconds."""


def build_page(studio: Studio, transfers: Transfers, report: Path | None) -> gr.Blocks:
    """All tabs, for `launch.py` to serve; `report` is the page of the last one."""

    def arrive(visitor: Session, request: gr.Request) -> Session:
        return replace(visitor, owner=str(request.session_hash))

    def leave(request: gr.Request) -> None:
        transfers.leave(str(request.session_hash))
        studio.thread.leave(str(request.session_hash))

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, OLD), fill_width=False) as page:
        gr.HTML(_head(studio))
        session = gr.State(Session())
        with gr.Tabs(selected="generate") as tabs:
            with gr.Tab("Generate", id="generate"):
                inputs = generate_tab(studio, session)
            with gr.Tab("Compare", id="compare"):
                compare_tab(studio, session, inputs)
            if studio.catalogue.zoo:
                with gr.Tab("Transfer", id="transfer"):
                    transfer_tab(studio, transfers, session, inputs, tabs)
            with gr.Tab("Report", id="report") as last:
                report_tab(last, report, studio.catalogue.zoo)
        page.load(arrive, session, session, queue=False, api_visibility="private")
        page.unload(leave)
    return page


def _head(studio: Studio) -> str:
    words = (
        "Miniature models that draw creatures. The reference says how the creature looks, the prompt where it is."
        if studio.catalogue.zoo
        else "The reference says how the subject looks, the prompt what the picture shows."
    )
    return f'<header class="a4a-head"><h1>a4a</h1><p>{words}</p></header>'
