"""Splits: by the hash of a name, and none is empty in a small set."""

from hypothesis import assume, given
from hypothesis import strategies as st

from a4a.data.prepare.splits import Split


@given(st.lists(st.text(), unique=True, max_size=50), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 9))
def test_a_subject_keeps_its_split_when_others_are_added(subjects, validation, test, seed):
    split = Split(validation, test, seed)
    before = {s: split(s) for s in subjects[: len(subjects) // 2]}
    after = {s: split(s) for s in reversed(subjects)}
    assert before.items() <= after.items()
    larger = Split(min(validation + 0.1, 1 - test), test, seed)
    assert all(
        larger(s) != "train" for s in subjects if split(s) == "validation"
    )  # growing a share takes from training alone
    assert all(larger(s) == "test" for s in subjects if split(s) == "test")


def test_splits_have_the_configured_shares():
    names = [Split(0.1, 0.2)(str(i)) for i in range(5000)]
    assert abs(names.count("test") / 5000 - 0.2) < 0.02 and abs(names.count("validation") / 5000 - 0.1) < 0.02


@given(st.sets(st.text(), min_size=3, max_size=60), st.integers(0, 9))
def test_from_three_subjects_on_no_split_with_a_share_is_empty(subjects, seed):
    for validation, test in ((0.05, 0.05), (0.0, 0.05), (0.5, 0.4), (1.0, 0.0)):
        split = Split(validation, test, seed).among(subjects)
        found = {split(s) for s in subjects}
        expected = {"validation": validation, "test": test, "train": 1 - validation - test}
        assert found == {name for name, share in expected.items() if share > 0}


@given(st.lists(st.text(), unique=True, min_size=3, max_size=60), st.integers(0, 9), st.integers(3, 60))
def test_more_data_move_only_subjects_that_were_moved_to_fill_a_split(subjects, seed, count):
    before = Split(seed=seed).among(subjects[:count])
    assume([before.split(s) for s in subjects[:count]].count("train") > 1)
    after = Split(seed=seed).among(subjects)
    changed = {s for s in subjects[:count] if before(s) != after(s)}
    assert changed <= before.moved.keys() and len(before.moved) <= 2


def test_fewer_than_three_subjects_are_split_by_their_names_alone():
    assert Split(0.0, 0.0).among(["a", "b", "c"]).moved == {}
    assert Split(0.05, 0.05).among(["a", "b"]).moved == {}
