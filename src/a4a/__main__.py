"""`python -m a4a`, which launchers of several processes want."""

from a4a.cli.main import run

run()
