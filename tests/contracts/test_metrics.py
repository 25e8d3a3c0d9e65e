"""What holds for every metric; a new one needs a line in `MAKERS` and, for its scores, in `SAME`."""

import numpy as np
import pytest
from jsonargparse import ArgumentParser

import tiny_encoders
from a4a.errors import InputError
from a4a.evaluation.metrics import Estimate, GeneratedSet, Metric, bootstrap_mean, metrics

MAKERS = {
    "IDA": lambda see: {"folder": see["faces"]},
    "CLIPImageScore": lambda see: {"model": see["clip"]},
    "CLIPTextScore": lambda see: {"model": see["clip"]},
    "DINOScore": lambda see: {"model": see["dino"]},
    "Similarity": lambda see: {"encoder": {"class_path": "a4a.encoders.DINO", "init_args": {"model": see["dino"]}}},
    "Retrieval": lambda see: {
        "encoder": {"class_path": "a4a.encoders.CLIPImageEncoder", "init_args": {"model": see["clip"]}}
    },
    "Diversity": lambda see: {"encoder": {"class_path": "a4a.encoders.ArcFace", "init_args": {"folder": see["faces"]}}},
    "KID": lambda see: {
        "encoder": {"class_path": "a4a.encoders.CLIPImageEncoder", "init_args": {"model": see["clip"]}}
    },
}
SAME = {
    "ida": 1,
    "ida_missing_as_0": 1,
    "face_found": 1,
    "clip_image": 1,
    "clip_text": None,
    "dino": 1,
    "similarity": 1,
    "retrieval": 1,
    "diversity": 0,
    "kid": 0,
}
"""The score of the references themselves; None where a score does not depend on the reference."""


@pytest.fixture(scope="module")
def see(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eyes")
    return {
        "faces": str(tiny_encoders.faces(folder / "antelopev2")),
        "clip": tiny_encoders.clip(folder / "clip"),
        "dino": tiny_encoders.dino(folder / "dino"),
    }


def made(kind, see) -> Metric:
    """A metric, made from settings as in a recipe."""
    assert kind in MAKERS, f"tests/contracts/test_metrics.py does not know how to make {kind}"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--metrics", type=list[Metric])
    settings = {"metrics": [{"class_path": f"a4a.evaluation.metrics.{kind}", "init_args": MAKERS[kind](see)}]}
    return parser.instantiate_classes(parser.parse_object(settings)).metrics[0]


@pytest.fixture(params=sorted(metrics()))
def metric(request, see):
    return made(request.param, see)


def mean(scores):
    return scores.mean if isinstance(scores, Estimate) else bootstrap_mean(scores).mean


def test_every_score_is_an_array_or_an_estimate(metric):
    scores = metric(
        tiny_encoders.generated(subjects=4, generations=3, of=lambda s, g: tiny_encoders.random_blocks(50 + 3 * s + g))
    )
    assert scores
    assert set(scores) <= set(SAME)
    for name, found in scores.items():
        if isinstance(found, Estimate):
            assert found.low <= found.mean <= found.high
            assert (found.subjects, found.pictures) == (4, 12)
        else:
            assert found.shape == ((4,) if name == "diversity" else (4, 3))
            assert found.dtype == np.float64
            assert np.isfinite(found).all()


def test_the_references_themselves_are_the_ceiling_and_noise_is_far_from_it(metric):
    ceiling, floor = (
        metric(tiny_encoders.generated()),
        metric(tiny_encoders.generated(of=lambda s, g: tiny_encoders.noise(2 * s + g))),
    )
    for name in [n for n in ceiling if SAME[n] is not None]:
        assert mean(ceiling[name]) == pytest.approx(SAME[name], abs=1e-6)
        if name != "face_found":  # the noise has one
            away = mean(floor[name]) - SAME[name]
            assert abs(away) > 0.1
            assert (away > 0) == (name in ("kid", "diversity"))


def test_the_order_of_subjects_does_not_matter(metric):
    before = tiny_encoders.generated(of=lambda s, g: tiny_encoders.random_blocks(s) if g else tiny_encoders.noise(s))
    order = [3, 0, 5, 1, 4, 2]
    after = GeneratedSet(*([rows[i] for i in order] for rows in (before.references, before.prompts, before.images)))
    for name, found in metric(after).items():
        expected = metric(before)[name]
        if isinstance(found, Estimate):
            assert [found.mean, found.low, found.high] == pytest.approx([expected.mean, expected.low, expected.high])
        else:
            np.testing.assert_allclose(found, expected[order], atol=1e-5)


def test_the_same_images_get_the_same_scores(metric):
    again = [metric(tiny_encoders.generated(of=lambda s, g: tiny_encoders.random_blocks(s + g))) for _ in range(2)]
    for name, found in again[0].items():
        assert found == again[1][name] if isinstance(found, Estimate) else np.array_equal(found, again[1][name])


def test_a_name_belongs_to_one_metric(see):
    owners = [name for kind in metrics() for name in made(kind, see)(tiny_encoders.generated(subjects=3))]
    assert sorted(owners) == sorted(SAME)


def test_images_of_other_subjects_are_retrieved_at_chance(see):
    """Over all cyclic shifts of the subjects, every image is compared with its own reference exactly once."""
    metric = made("Retrieval", see)
    shifts = [
        mean(
            metric(tiny_encoders.generated(of=lambda s, g, by=by: tiny_encoders.random_blocks((s + by) % 6)))[
                "retrieval"
            ]
        )
        for by in range(6)
    ]
    assert shifts[0] == 1
    assert np.mean(shifts) == pytest.approx(1 / 6)


def test_a_method_that_returns_the_reference_is_exposed(see):
    assert (made("Diversity", see)(tiny_encoders.generated())["diversity"] == 0).all()


@pytest.mark.parametrize("kind", ["CLIPImageScore", "CLIPTextScore", "DINOScore"])
def test_a_metric_loads_nothing_until_it_is_used_and_then_says_what_is_missing(kind):
    metric = metrics()[kind]("nobody/nothing")
    with pytest.raises(
        InputError, match=r"nobody/nothing could not be loaded as a (CLIP|CLIP vision|DINO) model.*give"
    ):
        metric(tiny_encoders.generated(subjects=2))
