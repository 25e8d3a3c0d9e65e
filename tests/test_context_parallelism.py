"""One image on two processes: diffusers' context parallelism splits the sequence, and features reach each part."""

from typing import Any

import pytest
import torch
from diffusers import ContextParallelConfig
from diffusers.models._modeling_parallel import ParallelConfig, TensorParallelConfig

import tiny_transformers
from a4a.backbones.attention import ImageRows
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.image_terms import ImageTerm
from a4a.injection import Injection, attach
from two_processes import TwoProcesses


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    processes = TwoProcesses(tmp_path_factory.mktemp("processes"))
    yield processes
    processes.stop()


def features(tiny):
    draws = [tuple(tiny_transformers.draw(2, 3, site.width) for site in tiny.sites) for _ in range(2)]
    return SiteFeatures(*draws)


def kontext():
    """FLUX with eight rows of a reference image behind the sixteen drawn ones: the second process has some of both.

    An even number in all, since gloo gathers parts of one size alone.
    """
    tiny = tiny_transformers.flux()
    positions = tiny.inputs["img_ids"]
    reference = positions[:8].clone()
    reference[:, 0] = 1
    tiny.inputs["img_ids"] = torch.cat([positions, reference])
    tiny.inputs["hidden_states"] = tiny_transformers.draw(2, len(positions) + 8, 4)
    return tiny


def flux2():
    """Positions for each sample, as its pipelines give them: diffusers splits no others."""
    tiny = tiny_transformers.flux2()
    for name in ("img_ids", "txt_ids"):
        tiny.inputs[name] = tiny.inputs[name].expand(2, -1, -1)
    return tiny


def qwen_image_edit():
    """Qwen-Image with a reference image of the same size behind the drawn one."""
    tiny = tiny_transformers.qwen_image()
    tiny.inputs["hidden_states"] = tiny_transformers.draw(2, 2 * tiny_transformers.PATCHES, 4)
    tiny.inputs["img_shapes"] = [shapes * 2 for shapes in tiny.inputs["img_shapes"]]
    return tiny


MODELS = (
    tiny_transformers.flux,
    kontext,
    flux2,
    tiny_transformers.qwen_image,
    qwen_image_edit,
    tiny_transformers.wan,
)


def _run(tiny, attached):
    with torch.no_grad():
        if not attached:
            return tiny()
        with attach(tiny.model, tiny.sites, features(tiny), 0.8):
            return tiny()


def _on_both(rank, name):
    tiny = next(build for build in MODELS if build.__name__ == name)()
    model: Any = tiny.model
    one = [_run(tiny, attached) for attached in (False, True)]
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and a CPU counts as none
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, ulysses_anything=True))
    two = [_run(tiny, attached) for attached in (False, True)]
    return [*one, *two]


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_two_processes_draw_what_one_draws(launched, build):
    for plain, prompted, plain_of_two, prompted_of_two in launched(_on_both, build.__name__):
        assert (plain_of_two - plain).abs().max() < 1e-5
        assert (prompted_of_two - prompted).abs().max() < 1e-5
        assert (prompted - plain).abs().max() > 1e-3


@pytest.mark.parametrize("rows", [ImageRows(16), ImageRows(5, before=4, after=8), ImageRows(16, after=7)])
@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("number", [int, torch.tensor])
def test_the_parts_of_a_sequence_hold_the_rows_of_the_whole(rows, parts, number):
    whole = torch.zeros(sum(rows), dtype=torch.bool)
    whole[rows.before : rows.before + rows.count] = True
    for rank, expected in enumerate(whole.tensor_split(parts)):
        part = ImageRows(*map(number, rows)).part(rank, parts)
        assert sum(part) == len(expected)
        found = torch.zeros_like(expected)
        found[part.before : part.before + part.count] = True
        assert torch.equal(found, expected)


def test_models_that_are_split_otherwise_are_refused():
    tiny = tiny_transformers.flux()
    model: Any = tiny.model
    model._parallel_config = ParallelConfig(tensor_parallel_config=TensorParallelConfig(tp_degree=2))
    with pytest.raises(InputError, match="split by tensor parallelism"):
        attach(tiny.model, tiny.sites, features(tiny))


def test_masks_are_for_one_process():
    tiny = tiny_transformers.flux()
    model: Any = tiny.model
    model._parallel_config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=2))
    term = ImageTerm(features(tiny), torch.ones(2, len(tiny.sites)), mask=torch.ones(2, 4, 4))
    with Injection(model, tiny.sites) as injection:
        injection.set_terms([term])
        with pytest.raises(InputError, match="masks are for the whole; leave the mask out"):
            tiny()
