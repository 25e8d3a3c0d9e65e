"""SIGTERM and Ctrl-C ask a run to stop after a checkpoint, instead of ending the process at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Catches SIGTERM and Ctrl-C; yields a function that returns the first signal's number, or 0 before there is one.

    Outside the main thread, Python allows no signal handlers; signals are then left to the caller.
    """
    received: list[int] = []
    try:
        previous = {
            number: signal.signal(number, lambda caught, _: received.append(caught))
            for number in (signal.SIGTERM, signal.SIGINT)
        }
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
