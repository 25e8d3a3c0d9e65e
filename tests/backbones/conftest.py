"""These tests run on every family."""

import pytest

import tiny_models


@pytest.fixture(params=list(tiny_models.PIPELINES))
def pipe(request):
    """Each of the tiny pipelines."""
    return request.getfixturevalue(request.param)
