"""`python -m a4a`: for launchers of several processes, such as torchrun."""

from a4a.cli.main import run

run()
