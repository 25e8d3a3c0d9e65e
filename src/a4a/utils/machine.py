"""The machine that a figure was measured on, and how much of its memory was used."""

import resource
import sys

import torch


def machine() -> str:
    """The GPU, or how many CPU threads torch uses, and torch's version."""
    what = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{what}, torch {torch.__version__}"


def peak_bytes() -> int:
    """Of allocated GPU memory since torch's last reset; without a GPU, of resident memory since the process began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
