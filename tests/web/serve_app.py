"""`a4a web` with transfers of seconds, for the tests: prints where it is, and serves until it is ended."""

import os

import torch

from a4a.web.app import catalogue, launch, transfers

torch.set_num_threads(1)
transfers.SAMPLES = (64, 400)
transfers.CREATURES = 48
transfers.VALIDATION = 6
transfers.SHARES = (1 / 2,)
launch.QUEUE = 2
if os.environ.get("A4A_SCREENSHOTS") != "1":
    catalogue.STEPS = 6
launch.web(port=0)
