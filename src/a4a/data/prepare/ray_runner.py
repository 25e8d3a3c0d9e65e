"""Runs a stage's chunks on Ray Data actors, on this machine or on the cluster that RAY_ADDRESS names.

All machines must see the source and the output folder under the same paths. The finished chunks are the checkpoint.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from a4a.data.prepare.stages import Chunk, Stage
from a4a.errors import InputError, first_line

EXTRA_CPUS = 3
"""That Ray Data needs besides those of its actors."""


class Actor:
    """Holds a stage, and so its models, for all the chunks that it is given."""

    def __init__(self, stage: Stage):
        self.stage = stage

    def __call__(self, rows: dict[str, Any]) -> dict[str, list]:
        chunks: list[Chunk] = [pickle.loads(row) for row in rows["chunk"]]
        message = ""
        try:
            for chunk in chunks:
                self.stage(chunk)
        except InputError as error:  # returned as a value: Ray would wrap it into pages of its own
            message = str(error)
        return {"images": [sum(len(chunk.records) for chunk in chunks)], "error": [message]}


def run_on_ray(stage: Stage, chunks: Sequence[Chunk], workers: int) -> Iterator[int]:
    """Does the chunks in any order; yields the number of images of each that is finished."""
    if find_spec("ray") is None:
        raise InputError("--ray needs Ray Data, which is not installed here; pip install 'a4a[ray]'.")
    import ray.data

    _start_ray(workers)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = ray.data.from_items([{"chunk": pickle.dumps(chunk)} for chunk in chunks], override_num_blocks=len(chunks))
    resources: dict[str, Any] = {"num_gpus": 1} if torch.cuda.is_available() else {"num_cpus": 1}
    actors = ray.data.ActorPoolStrategy(size=min(workers, len(chunks)))
    finished = rows.map_batches(Actor, fn_constructor_args=(stage,), batch_size=1, compute=actors, **resources)
    for row in finished.iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        yield row["images"]


def _start_ray(workers: int) -> None:
    """Connects to the cluster of RAY_ADDRESS, or starts Ray on this machine."""
    import ray

    if ray.is_initialized():
        return
    local = {"num_cpus": max(os.cpu_count() or 1, workers + EXTRA_CPUS), "include_dashboard": False}
    options: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else local
    try:
        ray.init(**options, log_to_driver=False)
    except Exception as error:  # what it raises has no class of its own
        raise InputError(
            f"Ray could not be started ({first_line(error)}); "
            "leave out --ray, or set RAY_ADDRESS to a cluster that runs."
        ) from error
