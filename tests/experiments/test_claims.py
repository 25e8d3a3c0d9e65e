import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a4a.errors import InputError
from a4a.evaluation.claims import Claim
from a4a.evaluation.resampling import ScoreCurve
from a4a.experiments.decisions import decide
from a4a.experiments.evidence import Evidence
from a4a.experiments.results import MethodResult, read_curves
from a4a.experiments.savings import Savings, savings_table

SUBJECTS = 24
OFFSETS = 0.1 * np.random.default_rng(5).normal(size=(1, SUBJECTS, 1))


def method(name, *seeds):
    return MethodResult(name, len(seeds), {"identity": np.array(seeds, dtype=float)}, {}, {}, Path())


def curve(samples, scores, seeds=3, noise=0.02, seed=0):
    """A curve whose mean over subjects is near `scores`."""
    random = np.random.default_rng(seed)
    values = np.array(scores, float) + OFFSETS + noise * random.normal(size=(seeds, SUBJECTS, len(scores)))
    return ScoreCurve(np.array(samples, float), values - OFFSETS.mean())


def evidence(curves=None, methods=(), validation=(), variants=("a", "b")):
    return Evidence(
        {m.name: m for m in methods},
        {name: {"identity": c} for name, c in (curves or {}).items()},
        {m.name: m for m in validation},
        variants,
    )


def verdict(kind, found, **options):
    decided = decide(Claim("", kind, "a", "b", **options), found)
    return decided.verdict, decided.figures


# --- final scores -----------------------------------------------------------------------------------------------------

BASE = [[i / 10] for i in range(20)]


def moved(*amounts):
    return [[[v[0] + amount + 0.001 * i] for i, v in enumerate(BASE)] for amount in amounts]


def finals(a, b):
    return evidence(methods=[method("a", *a), method("b", *b)])


def test_above_needs_the_whole_interval_of_the_paired_difference():
    higher, base = moved(0.10, 0.11, 0.10), [BASE] * 3
    assert verdict("above", finals(higher, base))[0] == "holds"  # paired: the spread of subjects does not matter
    assert verdict("above", finals(base, higher))[0] == "does not hold"
    mixed = [[[v[0] + 0.1 * (-1) ** i] for i, v in enumerate(BASE)]] * 3
    assert verdict("above", finals(mixed, base))[0] == "cannot be told"
    assert verdict("above", evidence(methods=[method("a", *base)]))[0] == "not measured"
    on_other_subjects = evidence(methods=[method("a", *higher)], validation=[method("b", *base)])
    assert verdict("above", on_other_subjects)[0] == "not measured"


def test_a_claim_is_undecided_where_training_seeds_disagree():
    found, figures = verdict("above", finals(moved(-0.02, 0.03, 0.04), [BASE] * 3))
    assert found == "cannot be told" and "by seed -0.011, +0.040, +0.050" in figures


def test_one_seed_decides_nothing_but_a_method_that_is_not_trained_needs_none():
    found, figures = verdict("above", finals(moved(0.1), [BASE]))
    assert found == "cannot be told" and figures.endswith("but one seed of a and b")
    not_trained = evidence(methods=[method("a", *moved(0.1, 0.11)), method("b", BASE)], variants=["a"])
    assert verdict("above", not_trained)[0] == "holds"


def test_seeds_that_disagree_count_on_either_side_of_a_claim():
    trained, not_trained = method("a", *moved(-0.02, 0.03, 0.04)), method("b", BASE)
    found = evidence(methods=[trained, not_trained], variants=["a"])
    for a, b in (("a", "b"), ("b", "a")):
        decided = decide(Claim("", "equal", a, b, margin=0.05), found)
        assert decided.verdict == "cannot be told" and "by seed" in decided.figures


def test_above_a_fraction_of_another_score():
    found = finals(moved(-0.02, -0.021, -0.019), [BASE] * 3)
    assert verdict("above", found)[0] == "does not hold"
    assert verdict("above", found, fraction=0.9)[0] == "holds"


@pytest.mark.parametrize(
    ("amounts", "margin", "expected"),
    [
        ((0.0, 0.001, -0.001), 0.03, "holds"),
        ((0.0, 0.1, -0.1), 0.03, "cannot be told"),  # no difference was found, and none was excluded
        ((0.1, 0.1, 0.101), 0.03, "does not hold"),
        ((-0.1, -0.1, -0.101), 0.03, "does not hold"),
        ((0.1, 0.1, 0.101), 0.3, "holds"),
    ],
)
def test_equal_needs_an_interval_within_the_margin(amounts, margin, expected):
    found, figures = verdict("equal", finals(moved(*amounts), [BASE] * 3), margin=margin)
    assert found == expected and f"margin {margin:g}" in figures


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=3), st.floats(0.01, 0.2), st.floats(1, 3))
def test_a_wider_margin_never_takes_equality_back(amounts, margin, wider):
    found = finals(moved(*amounts), [BASE] * len(amounts))
    narrow, wide = (verdict("equal", found, margin=m)[0] for m in (margin, margin * wider))
    order = ["does not hold", "cannot be told", "holds"]
    assert order.index(narrow) <= order.index(wide)


# --- curves -----------------------------------------------------------------------------------------------------------

COUNTS = [0, 400, 800, 1600]


def test_always_above_needs_every_sample_count_beyond_chance():
    b = curve(COUNTS, [0, 0.2, 0.3, 0.4], seed=1)
    clear = evidence({"a": curve(COUNTS, [0, 0.4, 0.5, 0.6]), "b": b})
    found, figures = verdict("always_above", clear)
    assert found == "holds" and "above b at all 3 sample counts" in figures
    assert verdict("always_above", evidence({"a": b, "b": clear.curves["a"]["identity"]}))[0] == "does not hold"
    close = evidence({"a": curve(COUNTS, [0, 0.4, 0.5, 0.402]), "b": b})
    found, figures = verdict("always_above", close)
    assert found == "cannot be told" and "beyond chance at 2 of 3" in figures and "closest at 1,600" in figures
    assert verdict("always_above", close, until=800)[0] == "holds"


def test_a_toy_run_of_one_seed_and_eight_subjects_decides_nothing():
    random = np.random.default_rng(0)
    a, b = (ScoreCurve(np.array([0.0, 8, 16]), random.normal(0, 0.1, (1, 8, 3)) + shift) for shift in (0.05, 0))
    assert verdict("always_above", evidence({"a": a, "b": b}))[0] == "cannot be told"


def test_two_equal_methods_are_seldom_told_apart():
    wrong = 0
    for trial in range(60):
        a, b = (curve(range(6), [0, 0.1, 0.3, 0.4, 0.5, 0.5], noise=0.1, seed=2 * trial + i) for i in (0, 1))
        wrong += verdict("always_above", evidence({"a": a, "b": b}))[0] != "cannot be told"
    assert wrong <= 6


def test_at_least_times_counts_what_b_has_not_learned_yet_as_enough():
    a, b = curve(COUNTS, [0, 0.3, 0.5, 0.6], seed=1), curve(COUNTS, [0, 0.0, 0.1, 0.4])
    found = evidence({"a": a, "b": b})
    assert verdict("at_least_times", found, times=3)[0] == "does not hold"
    assert verdict("at_least_times", found, times=3, until=800)[0] == "holds"
    nothing_yet = evidence({"a": curve(COUNTS, [0, 0.0, 0.5, 0.6], seed=1), "b": b})
    assert verdict("at_least_times", nothing_yet, times=3, until=800)[0] != "holds"
    assert verdict("at_least_times", nothing_yet, times=3, until=800, floor=0.05)[0] == "holds"


# --- samples to reach a level -----------------------------------------------------------------------------------------

SLOW = [0, 4000, 8000, 16000]
RISE = [0, 0.3, 0.5, 0.7]


def test_fewer_samples_is_a_ratio_with_an_interval():
    found = evidence({"a": curve(COUNTS, RISE), "b": curve(SLOW, RISE, seed=1)})
    holds, figures = verdict("fewer_samples", found, fraction=0.8)
    assert holds == "holds" and "times [" in figures and "fewer samples (a 1," in figures
    assert 9 < float(figures.split(" times")[0]) < 11
    assert verdict("fewer_samples", found, fraction=0.8, times=7)[0] == "holds"
    assert verdict("fewer_samples", found, fraction=0.8, times=10)[0] == "cannot be told"
    assert verdict("fewer_samples", found, fraction=0.8, times=14)[0] == "does not hold"
    turned = evidence({"a": found.curves["b"]["identity"], "b": found.curves["a"]["identity"]})
    assert verdict("fewer_samples", turned, fraction=0.8)[0] == "does not hold"


def test_where_b_ends_before_the_level_its_end_is_a_bound():
    b = curve(SLOW, [0, 0.1, 0.2, 0.3], seed=1)
    reference = method("pta", *(0.7 + OFFSETS[..., 0] for _ in range(1)))
    found = evidence({"a": curve(COUNTS, RISE), "b": b}, validation=[reference])
    options = {"reference": "pta", "fraction": 0.8}
    holds, figures = verdict("fewer_samples", found, times=10, **options)
    assert holds == "holds" and figures.startswith("at least 1") and "∞]" in figures and "b not by 16,000" in figures
    assert verdict("fewer_samples", found, times=20, **options)[0] == "cannot be told"  # it might be later still


def test_where_a_ends_before_the_level_it_may_reach_it_later_or_never():
    a, b = curve(COUNTS, [0, 0.1, 0.2, 0.3]), curve(SLOW, RISE, seed=1)
    found, figures = verdict("fewer_samples", evidence({"a": a, "b": b}))
    assert found == "cannot be told" and "a comes to 0.3" in figures and "within 1,600 samples" in figures
    assert verdict("fewer_samples", evidence({"a": a, "b": b}), times=20)[0] == "does not hold"


def test_a_published_adapter_has_a_sample_count_and_no_curve():
    published = evidence({"a": curve(COUNTS, RISE)}, validation=[method("b", 0.5 + OFFSETS[0])], variants=["a"])
    found, figures = verdict("fewer_samples", published, b_samples=64_000, times=50)
    assert found == "holds" and "b 64,000" in figures
    assert verdict("fewer_samples", evidence({"a": curve(COUNTS, RISE)}), b_samples=64_000)[0] == "not measured"


@settings(max_examples=8, deadline=None)
@given(st.floats(1, 40), st.floats(1, 3), st.floats(0.3, 1))
def test_asking_for_more_never_makes_a_claim_truer(times, more, fraction):
    found = evidence({"a": curve(COUNTS, RISE), "b": curve(SLOW, RISE, seed=1)})
    less, greater = (verdict("fewer_samples", found, times=t, fraction=fraction)[0] for t in (times, times * more))
    order = ["does not hold", "cannot be told", "holds"]
    assert order.index(greater) <= order.index(less)


def test_the_savings_table_says_what_was_not_reached_and_the_ratio():
    found = evidence({"a": curve(COUNTS, RISE), "b": curve(SLOW, [0, 0.1, 0.2, 0.4], seed=1)})
    head, a, b = savings_table(Savings("a", "a", fractions=(0.5, 0.9)), found)
    assert head[2].startswith("samples to half (0.3") and head[4].startswith("samples to nine tenths (0.6")
    assert a[0] == "a" and a[3] == "" and "[" in a[2]
    assert b[3].endswith("fewer") and b[4] == "not reached by 16,000" and b[5].startswith("at least")
    assert savings_table(Savings("a", "pta"), found) == []


def test_an_adapter_that_is_there_before_training_has_no_ratio_of_samples():
    found = evidence({"a": curve(COUNTS, RISE), "b": curve([0, *COUNTS], [0.6, 0.6, 0.6, 0.6, 0.68], seed=1)})
    _, _, b = savings_table(Savings("a", "a", fractions=(0.5, 0.9)), found)
    assert b[2:4] == ["before the first sample", ""] and b[5].endswith("fewer")


# --- claims and records -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("equal", {}, "has no margin; add it"),
        ("equal", {"margin": -1}, "has margin -1; give a number above zero"),
        ("above", {"times": 3}, "of kind above has times; that kind takes fraction"),
    ],
)
def test_a_claim_takes_the_options_of_its_kind(kind, options, said):
    with pytest.raises(InputError, match=said):
        Claim("X", kind, "a", "b", **options)


def test_curves_are_read_from_the_scores_of_every_subject(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / f"seed{seed}"
        (folder / "scores").mkdir(parents=True)
        (folder / "log.csv").write_text("step,samples,loss,identity\n0,0,,0.1\n1,4,0.5,\n2,8,0.5,0.2\n")
        for samples in (0, 8):
            values = {"identity": [[0.1 + seed, 0.3 + seed], [samples, None]]}
            (folder / "scores" / f"{samples:010d}.json").write_text(json.dumps(values))
    found = read_curves(tmp_path, [0, 1, 2], ["identity", "ida"])
    assert list(found) == ["identity"] and list(found["identity"].samples) == [0, 8]
    assert np.allclose(found["identity"].values[1], [[1.2, 1.2], [0, 8]])
    (tmp_path / "seed1" / "scores" / f"{8:010d}.json").unlink()
    with pytest.raises(InputError, match=r"There is no .*0000000008.json.* train that run again"):
        read_curves(tmp_path, [0, 1], ["identity"])
