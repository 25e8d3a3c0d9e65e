# ruff: noqa: E402 (the hook must be there before anything is imported)
"""Shapes in a4a's annotations are enforced while tests run; the tiny pipelines are built once."""

import os
import subprocess

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

install_import_hook(["a4a.method", "a4a.adapters", "a4a.evaluation.metrics"], "beartype.beartype")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("a4a", deadline=None, max_examples=25)
settings.load_profile("a4a")

import tiny_models


def _session_fixture(name, build):
    @pytest.fixture(scope="session", name=name)
    def fixture():
        return build()

    return fixture


for _name, _build in tiny_models.PIPELINES.items():  # sd15, sdxl, pixart ...: built once, not to be changed by tests
    globals()[f"pipeline_{_name}"] = _session_fixture(_name, _build)


@pytest.fixture(params=list(tiny_models.EXEMPLARS))
def pipe(request):
    """One tiny pipeline of each kind; in tests of backbones and contracts, every one."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
