"""The machine that a figure was measured on."""

import torch


def machine() -> str:
    """The GPU, or how many CPU threads torch uses, and torch's version."""
    what = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{what}, torch {torch.__version__}"
