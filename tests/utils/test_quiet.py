"""What `import a4a` prints (nothing) and what it leaves alone (everything else that is logged)."""

import importlib.metadata
import subprocess
import sys

import a4a

QUIET = "import a4a; [getattr(a4a, name) for name in a4a.__all__]"
OTHERS = (
    "import logging; [logging.getLogger(n).error('broken') for n in ('torchao', 'transformers.utils.import_utils')]"
)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_every_public_name_prints_nothing():
    done = run(f"{QUIET}; print(a4a.__version__)")
    assert done.stderr == ""
    assert done.stdout.strip() == importlib.metadata.version("a4a")


def test_real_errors_of_the_same_libraries_are_still_shown():
    assert run(f"import a4a; {OTHERS}").stderr.count("broken") == 2


def test_the_package_lists_its_public_names():
    assert set(a4a.__all__) | {"__version__"} <= set(dir(a4a))
