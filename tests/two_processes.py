"""Two processes of one job, started afresh and kept for the tests of a file."""

import multiprocessing
import os
from datetime import timedelta

import torch
from accelerate import PartialState

LIMIT = (
    200  # seconds for one function, and for the start: a test that waits for ever would take the whole suite with it
)


class TwoProcesses:
    """Runs functions of importable modules in two processes that share a gloo group.

    The processes are spawned, not forked: what other tests left in this one (threads, locks that they hold) would
    stop a copy of it for ever.
    """

    def __init__(self, folder):
        self.folder, self.pools, self.started = folder, [], 0

    def __call__(self, function, *arguments):
        """`function(process, *arguments)` in both, 0 and 1; an error in one of them is raised here."""
        if not self.pools:
            self._start()
        results = [pool.apply_async(function, (rank, *arguments)) for rank, pool in enumerate(self.pools)]
        try:
            return [result.get(LIMIT) for result in results]
        except BaseException:
            self.stop()  # the other may wait for this one: the next test gets new ones
            raise

    def _start(self):
        self.started += 1
        spawn = multiprocessing.get_context("spawn")
        meeting = self.folder / f"meeting{self.started}"
        self.pools = [spawn.Pool(1, _join, (rank, str(meeting))) for rank in range(2)]

    def stop(self):
        for pool in self.pools:
            pool.terminate()
        self.pools = []


def _join(rank, meeting):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"ACCELERATE_USE_CPU": "yes", "ACCELERATE_MIXED_PRECISION": "no", "GLOO_SOCKET_IFNAME": "lo"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    assert PartialState(cpu=True).num_processes == 2
