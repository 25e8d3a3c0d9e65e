"""`init`: a run that starts from a trained adapter takes its weights, or says in one sentence why it cannot."""

import pytest
import torch

import tiny_models
from a4a.adapters import formats
from a4a.errors import InputError
from a4a.transfer.start import source_within, start_from


@pytest.fixture
def source(sd15):
    return tiny_models.ip_adapter(sd15)


def started(init, adapter, source="the-source", model="the-model"):
    start_from("runs/first/adapter", init, adapter, source, model)
    return adapter


def test_all_weights_are_taken(source, pixart):
    trained = tiny_models.shaken(tiny_models.a4a(source, pixart, rounds=1))
    trained.source.load_state_dict(source.state_dict())
    new = started(trained, tiny_models.a4a(source, pixart, seed=1, rounds=1))
    for name, weight in trained.state_dict().items():
        assert torch.equal(new.state_dict()[name], weight), name


def test_a_fine_tuned_source_goes_on_where_none_is_given(source, pixart):
    trained = tiny_models.shaken(tiny_models.a4a(source, pixart, rounds=1))
    new = started(trained, tiny_models.a4a(source_within(trained), pixart, rounds=1), source=None)
    assert torch.equal(new.source.to_k[0].weight, trained.source.to_k[0].weight)


def test_a_published_adapter_may_be_trained_on(sd15, tmp_path):
    formats.write(tiny_models.ip_adapter(sd15), tmp_path / "published.safetensors")
    published, new = formats.read(tmp_path / "published.safetensors"), tiny_models.ip_adapter(sd15, seed=1)
    started(published, new)
    assert torch.equal(new.to_v[-1].weight, published.to_v[-1].weight)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        (
            lambda source, sd15, pixart: tiny_models.ip_adapter(pixart),
            "of the class A4A, but the method trains IPAdapter",
        ),
        (lambda source, sd15, pixart: tiny_models.a4a(source, sd15, rounds=1), "for another model than the-model"),
        (lambda source, sd15, pixart: tiny_models.a4a(source, pixart, rounds=2), "rounds 1, but the method has rounds"),
        (lambda source, sd15, pixart: tiny_models.a4a(source, pixart, rounds=1, d_scm=16), "set the method's options"),
        (
            lambda source, sd15, pixart: tiny_models.a4a(tiny_models.ip_adapter(sd15, seed=5), pixart, rounds=1),
            "made from another source than the-source",
        ),
        (
            lambda source, sd15, pixart: tiny_models.a4a(tiny_models.ip_adapter(sd15, tokens=2), pixart, rounds=1),
            "made from another source than the-source",
        ),
    ],
    ids=["other method", "other model", "other rounds", "other width", "other source", "another kind of source"],
)
def test_what_does_not_fit_is_refused_in_one_sentence(source, sd15, pixart, adapter, said):
    trained, new = tiny_models.a4a(source, pixart, rounds=1), adapter(source, sd15, pixart)
    before = {name: t.clone() for name, t in new.state_dict().items()}
    with pytest.raises(InputError, match=said) as caught:
        started(trained, new)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in new.state_dict().items())
