"""The machine that a figure was measured on."""

import torch


def machine() -> str:
    what = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{what}, torch {torch.__version__}"
