"""A step's chunks as work for Ray Data actors, on this machine or on the cluster that RAY_ADDRESS names.

All machines must see the source and the output folder under the same paths. The finished chunks are the checkpoint.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from a4a.data.prepare.stages import Chunk, Step
from a4a.errors import InputError, first_line


class Actor:
    """Holds a step, and so its models, for as many chunks as it is given."""

    def __init__(self, step: Step):
        self.step = step

    def __call__(self, rows: dict[str, Any]) -> dict[str, list]:
        chunks = [pickle.loads(row) for row in rows["chunk"]]
        said = ""
        try:
            for chunk in chunks:
                self.step(chunk)
        except InputError as error:  # as a value: Ray would wrap it into pages of its own
            said = str(error)
        return {"pictures": [sum(len(chunk.items) for chunk in chunks)], "error": [said]}


def over_cluster(step: Step, chunks: Sequence[Chunk], workers: int) -> Iterator[int]:
    """Does the chunks in any order; yields the pictures of each that is finished."""
    if find_spec("ray") is None:
        raise InputError("--ray needs Ray Data, not installed here; pip install 'a4a[ray]'.")
    import ray
    import ray.data

    if not ray.is_initialized():
        alone = {
            "num_cpus": max(os.cpu_count() or 1, workers + 3),
            "include_dashboard": False,
        }  # Ray Data needs some besides its actors
        try:
            ray.init(**({} if os.environ.get("RAY_ADDRESS") else alone), log_to_driver=False)
        except Exception as error:  # what it raises has no class of its own
            raise InputError(
                f"Ray could not be started ({first_line(error)}); leave out --ray, or set RAY_ADDRESS to a cluster that runs."
            ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = ray.data.from_items([{"chunk": pickle.dumps(chunk)} for chunk in chunks], override_num_blocks=len(chunks))
    options: dict[str, Any] = {"num_gpus": 1} if torch.cuda.is_available() else {"num_cpus": 1}
    actors = ray.data.ActorPoolStrategy(size=min(workers, len(chunks)))
    done = rows.map_batches(Actor, fn_constructor_args=(step,), batch_size=1, compute=actors, **options)
    for row in done.iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        yield row["pictures"]
