import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from a4a.evaluation.resampling import (
    Interval,
    ScoreCurve,
    common_samples,
    monotone,
    resample,
    samples_to_reach,
    student_deviations,
)
from a4a.evaluation.statistics import mean_over_seeds

CURVES = arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(2, 5)), elements=st.floats(-1, 1, width=32)
)
RISING = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=6)


@given(st.integers(1, 8), st.integers(0, 9))
def test_the_weights_of_seeds_and_of_subjects_sum_to_one(count, seed):
    deviations = student_deviations(count, 20, np.random.default_rng(seed))
    assert deviations.shape == (20, count)
    assert np.allclose(deviations.sum(axis=1), 0, atol=1e-9 * (1 + np.abs(deviations).max()))


@settings(max_examples=40)
@given(CURVES, st.floats(-2, 2), st.floats(0.1, 3))
def test_resampled_curves_move_and_stretch_with_the_scores(values, shift, scale):
    once, moved = (resample({"a": v}, 20)["a"] for v in (values, shift + scale * values))
    assert np.allclose(moved, shift + scale * once, atol=1e-6 * (1 + np.abs(once).max()))


@settings(max_examples=40)
@given(CURVES)
def test_a_method_is_not_different_from_itself_where_it_has_one_seed(values):
    found = resample({"a": values[:1], "b": values[:1]}, 20)
    assert np.array_equal(found["a"], found["b"])  # subjects are paired


def test_equal_scores_are_resampled_to_themselves():
    assert np.allclose(resample({"a": np.full((3, 5, 2), 0.25)}, 50)["a"], 0.25)


def test_the_band_of_one_sample_count_is_the_interval_over_seeds_and_subjects():
    random = np.random.default_rng(0)
    values = random.normal(0, 0.05, (3, 1)) + random.normal(0, 0.1, (1, 50)) + random.normal(0, 0.1, (3, 50))
    expected = mean_over_seeds(values)
    low, high = ScoreCurve(np.zeros(1), values[..., None]).band()
    width = expected.high - expected.low
    assert low[0] == pytest.approx(expected.low, abs=0.15 * width)
    assert high[0] == pytest.approx(expected.high, abs=0.15 * width)


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_the_interval_of_a_ratio_of_samples_holds_the_truth_about_as_often_as_it_says(spread):
    random = np.random.default_rng(1)
    samples = {"a": np.arange(9) * 400.0, "b": np.arange(9) * 4000.0}
    missed = 0
    for trial in range(100):
        scores = {
            name: _learning(random, counts, counts[-1] / 4, spread, np.random.default_rng(trial))
            for name, counts in samples.items()
        }
        found = resample(scores, 300, trial)
        crossings = [samples_to_reach(samples[n], monotone(found[n]), np.full(300, 0.5)) for n in ("a", "b")]
        interval = Interval.of(10, crossings[1] / crossings[0])
        missed += not interval.low <= 10 <= interval.high
    assert missed <= 12  # of 100; about 5 are expected


def _learning(random, samples, rate, spread, subjects):
    """Scores [3 seeds, 40 subjects, counts] of curves whose speed differs by seed and whose height by subject."""
    speeds = rate * np.exp(random.normal(0, spread, (3, 1, 1)))
    heights = 1 + 0.3 * subjects.normal(size=(1, 40, 1))
    return 0.7 * (1 - np.exp(-samples / speeds)) * heights + random.normal(0, 0.1, (3, 40, len(samples)))


# --- samples to reach a level -----------------------------------------------------------------------------------------


def reach(samples, curve, level):
    curves = monotone(np.array([curve], float))
    return float(samples_to_reach(np.array(samples, float), curves, np.array([level]))[0])


def test_the_crossing_is_interpolated_between_recorded_points():
    assert reach([0, 400, 800], [0, 0.2, 0.6], 0.5) == pytest.approx(700)
    assert reach([0, 400, 800], [0, 0.2, 0.6], 0.2) == pytest.approx(400)
    assert reach([0, 400, 800], [0, 0.2, 0.6], 0.7) == np.inf


def test_one_lucky_evaluation_does_not_reach_a_level():
    assert reach([0, 400, 800, 1200], [0, 0.5, 0.3, 0.6], 0.5) > 800


@given(RISING, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_level_is_never_reached_earlier(curve, one, other):
    samples = np.arange(len(curve)) * 100
    assert reach(samples, curve, min(one, other)) <= reach(samples, curve, max(one, other))


@given(RISING, st.floats(0, 1), st.integers(2, 9))
def test_counting_samples_in_another_unit_changes_the_unit_alone(curve, level, unit):
    samples = 1000 + np.arange(len(curve)) * 1000
    assert reach(samples * unit, curve, level) == pytest.approx(unit * reach(samples, curve, level))


@given(RISING)
def test_a_monotone_curve_never_falls_and_keeps_the_mean(curve):
    smooth = monotone(np.array([curve]))[0]
    assert (np.diff(smooth) >= -1e-12).all()
    assert smooth.mean() == pytest.approx(np.mean(curve), abs=1e-9)


def test_common_sample_counts_leave_out_the_untrained_start():
    curves = [ScoreCurve(np.array(s, float), np.zeros((1, 2, len(s)))) for s in ([0, 400, 800, 1600], [0, 800, 1600])]
    assert list(common_samples(curves)) == [800, 1600]
    assert list(common_samples(curves, until=800)) == [800]


def test_a_subject_without_a_score_counts_as_the_mean_of_the_others():
    values = np.random.default_rng(0).normal(size=(1, 6, 2))
    holed = values.copy()
    holed[0, 2] = np.nan
    assert np.allclose(ScoreCurve(np.zeros(2), holed).mean, np.delete(values, 2, axis=1).mean(axis=(0, 1)))
    assert np.isfinite(resample({"a": holed}, 10)["a"]).all()
