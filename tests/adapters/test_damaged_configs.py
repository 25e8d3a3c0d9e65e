"""Saved adapters with a damaged config.json: each loads or is refused in a sentence, without absurd memory."""

import copy
import json
import random
import resource

import pytest

import tiny_models
import tiny_projections
from a4a.adapters.a4a import A4A
from a4a.adapters.loading import load_adapter
from a4a.cli.inspect import inspect_facts
from a4a.errors import InputError

VALUES = [None, True, -1, 0, 3, 2.5, 10**6, 10**9, 10**30, float("nan"), float("inf"), "", "x", [], [1], {}, {"a": 1}]
CASES, MEGABYTES = 200, 300


@pytest.fixture(scope="module")
def saved(sd15, pixart, tmp_path_factory):
    """A transfer of a transfer of a resampler: every kind of setting is in its configuration."""
    folder = tmp_path_factory.mktemp("saved")
    first = tiny_models.a4a(tiny_projections.ip_adapter(sd15, "plus"), pixart, d_scm=32)
    tiny_models.a4a(first, pixart, connectivity="layer_by_layer", d_scm=32).save_pretrained(folder)
    return folder


def places(value, path=()):
    """Every place in a nested configuration."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def damaged(config, seed):
    chance = random.Random(seed)
    config = copy.deepcopy(config)
    for _ in range(chance.choice([1, 1, 2])):
        path = chance.choice(list(places(config)))
        parent = config
        for key in path[:-1]:
            parent = parent[key]
        if chance.random() < 0.15:
            del parent[path[-1]]
        else:
            parent[path[-1]] = chance.choice(VALUES)
    return config


def test_each_of_200_damaged_configurations_loads_or_is_refused_in_a_sentence(saved):
    file = saved / "config.json"
    config = json.loads(file.read_text())
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for seed in range(CASES):
        file.write_text(json.dumps(damaged(config, seed)))
        try:
            inspect_facts(str(saved))
            adapter = load_adapter(saved)  # what loads also runs
            adapter(tiny_projections.embeds("plus"))
            assert adapter.image_encoder_path is None or isinstance(adapter.image_encoder_path, str)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error), f"seed {seed}"
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
    file.write_text(json.dumps(config))
    assert refused > CASES // 2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES
    assert isinstance(load_adapter(saved), A4A)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("base", 5, "describes no adapter"),
        ("_class_name", ["A4A"], "describes a \\['A4A'\\], not an adapter; expected _class_name to be one of"),
        ("d_scm", 10**12, "has the size 1000000000000"),
        ("rounds", 10**4, "The mapping has 10000 rounds"),
        ("d_scm", 64, "do not fit their config.json"),
    ],
)
def test_wrong_values_are_named(saved, name, value, message):
    file = saved / "config.json"
    config = json.loads(file.read_text())
    try:
        file.write_text(json.dumps({**config, name: value}))
        with pytest.raises(InputError, match=message):
            load_adapter(saved)
    finally:
        file.write_text(json.dumps(config))
