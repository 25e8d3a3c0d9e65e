import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from a4a.errors import InputError
from a4a.evaluation.metrics import Estimate, bootstrap_mean, mean_over_seeds, paired_difference

TABLES = arrays(np.float64, st.tuples(st.integers(2, 6), st.integers(1, 4)), elements=st.floats(-1, 1))


def test_every_subject_weighs_the_same_however_many_images_it_has():
    found = bootstrap_mean(np.array([[1.0, np.nan, np.nan], [0.0, 0.2, 0.4], [np.nan] * 3]))
    assert found.mean == pytest.approx((1.0 + 0.2) / 2)
    assert (found.subjects, found.pictures) == (2, 4)
    assert found.low <= found.mean <= found.high


def test_scores_may_be_one_per_subject():
    assert bootstrap_mean(np.array([0.0, 1.0, np.nan])) == bootstrap_mean(np.array([[0.0], [1.0], [np.nan]]))


def test_the_mean_of_no_values_is_nan():
    found = bootstrap_mean(np.full((2, 3), np.nan))
    assert (found.subjects, found.pictures) == (0, 0)
    assert np.isnan([found.mean, found.low, found.high]).all()


def test_equal_scores_give_an_interval_without_width():
    assert bootstrap_mean(np.full((4, 2), 0.5)) == Estimate(0.5, 0.5, 0.5, 4, 8)


def test_an_estimate_reads_as_a_mean_and_its_interval():
    assert str(Estimate(0.5127, 0.5, 0.5251, 100, 400)) == "0.513 [0.500, 0.525]"


@given(TABLES, st.integers(0, 5))
def test_a_difference_turned_around_is_its_negative(scores, seed):
    others = np.roll(scores, 1, axis=0)
    there, back = paired_difference(scores, others, seed), paired_difference(others, scores, seed)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low), abs=1e-9)


def test_an_image_without_a_score_in_one_method_is_left_out_of_the_difference():
    found = paired_difference(np.array([[0.5, np.nan], [0.5, 0.7]]), np.array([[0.3, 0.1], [np.nan, 0.6]]))
    assert found.mean == pytest.approx((0.2 + 0.1) / 2)
    assert (found.subjects, found.pictures) == (2, 2)


def test_tables_of_two_tasks_are_not_compared():
    with pytest.raises(InputError, match=r"shapes \(2, 3\) and \(3, 2\) cannot be compared in pairs"):
        paired_difference(np.zeros((2, 3)), np.zeros((3, 2)))


def test_paired_differences_find_what_separate_means_cannot():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=(40, 1))
    better = hard + 0.1 + rng.normal(size=(40, 4)) * 0.02
    assert bootstrap_mean(hard).high > bootstrap_mean(better).low
    assert paired_difference(better, np.repeat(hard, 4, axis=1)).low > 0


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [bootstrap_mean(rng.normal(size=(40, 1)) + rng.normal(size=(40, 3)), seed=i) for i in range(100)]
    assert 0.86 <= np.mean([f.low <= 0 <= f.high for f in found]) <= 1


@pytest.mark.parametrize("spread", [0.0, 0.03])
def test_the_interval_over_seeds_holds_the_truth_about_as_often_as_it_says(spread):
    random = np.random.default_rng(0)
    missed = alone = 0
    for _ in range(400):
        scores = random.normal(0, spread, (3, 1)) + random.normal(0, 0.1, (1, 60)) + random.normal(0, 0.15, (3, 60))
        found, narrow = mean_over_seeds(scores), bootstrap_mean(scores.mean(axis=0))
        missed += not found.low <= 0 <= found.high
        alone += not narrow.low <= 0 <= narrow.high
    assert missed < 0.09 * 400
    assert (alone > 0.15 * 400) == (spread > 0)  # subjects alone do not see that seeds differ


def test_one_seed_is_an_interval_over_subjects_and_what_a_seed_lacks_is_left_out():
    scores = np.random.default_rng(1).normal(size=(3, 20, 2))
    assert mean_over_seeds(scores[:1]) == bootstrap_mean(scores[0])
    holed = scores.copy()
    holed[1, 4] = np.nan
    assert mean_over_seeds(holed).mean == pytest.approx(mean_over_seeds(np.delete(scores, 4, axis=1)).mean)
    assert mean_over_seeds(holed).subjects == 19
    assert np.isnan(mean_over_seeds(np.full((3, 2), np.nan)).mean)
