"""SiteFeatures and the comparison of sites."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from a4a.errors import InputError
from a4a.features import Site, SiteFeatures, differing_site

widths = st.lists(st.integers(1, 9), min_size=1, max_size=5)
counts = st.integers(1, 4)


def make(widths, batch=2, tokens=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return tuple(torch.randn(batch, tokens, w, generator=generator) for w in widths)

    return SiteFeatures(draw(), draw())


def sites(widths):
    return [Site(f"site.{i}", w, i / max(len(widths) - 1, 1)) for i, w in enumerate(widths)]


def same(a, b):
    return a.widths == b.widths and all(map(torch.equal, a.keys + a.values, b.keys + b.values))


@given(widths, counts, counts)
def test_batch_tokens_and_widths_are_those_of_the_tensors(widths, batch, tokens):
    features = make(widths, batch, tokens)
    assert (features.batch, features.tokens, features.widths) == (batch, tokens, tuple(widths))


@given(widths, st.data())
def test_a_batch_that_differs_at_one_site_is_refused(widths, data):
    good = make(widths)
    i = data.draw(st.integers(0, len(widths) - 1))
    for shape in ((2, 4, widths[i]), (3, 3, widths[i]), (2, 3, widths[i] + 1), (2, 3)):
        values = list(good.values)
        values[i] = torch.zeros(shape)
        with pytest.raises(ValueError, match=f"site {i}"):
            SiteFeatures(good.keys, tuple(values))


@given(widths)
def test_as_many_values_as_keys_are_needed(widths):
    good = make(widths)
    with pytest.raises(ValueError, match="as many values as keys"):
        SiteFeatures(good.keys, good.values[:-1])


def test_no_site_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        SiteFeatures((), ())


@given(widths, st.lists(counts, min_size=1, max_size=4))
def test_stacking_keeps_every_part_in_order(widths, batches):
    parts = [make(widths, b, seed=i) for i, b in enumerate(batches)]
    whole, start = SiteFeatures.stack(parts), 0
    assert whole.batch == sum(batches)
    for part in parts:
        assert same(whole[start : start + part.batch], part)
        start += part.batch


@given(widths, counts, counts)
def test_repeat_interleave_puts_copies_of_a_row_next_to_each_other(widths, batch, times):
    features = make(widths, batch)
    repeated = features.repeat_interleave(times)
    assert repeated.batch == batch * times
    for i in range(batch * times):
        assert same(repeated[i : i + 1], features[i // times : i // times + 1])


@given(widths, counts, st.data())
def test_rows_can_be_selected_by_index(widths, batch, data):
    features = make(widths, batch)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=5)))
    assert same(
        features[rows], SiteFeatures(tuple(k[rows] for k in features.keys), tuple(v[rows] for v in features.values))
    )


def test_to_changes_the_dtype_and_keeps_the_widths():
    half = make([3, 4]).to(torch.float16)
    assert {t.dtype for t in half.keys + half.values} == {torch.float16}
    assert half.widths == (3, 4)


@given(widths)
def test_features_fit_their_own_sites(widths):
    make(widths).check(sites(widths), "Model")
    assert differing_site(sites(widths), sites(widths)) is None


@given(widths, st.data())
def test_the_first_differing_site_is_named(widths, data):
    i = data.draw(st.integers(0, len(widths) - 1))
    other = [w + 1 if j >= i else w for j, w in enumerate(widths)]
    found, expected = (rf"site\.{i} of width {width[i]}" for width in (other, widths))
    with pytest.raises(InputError, match=rf"do not fit Model: site {i} is {found} where {expected} is expected"):
        make(other).check(sites(widths), "Model")


@given(widths, widths)
def test_another_number_of_sites_is_refused(found, expected):
    if len(found) != len(expected):
        with pytest.raises(InputError, match=f"for {len(found)} sites but Model has {len(expected)}"):
            make(found).check(sites(expected), "Model")


def test_missing_and_additional_sites_are_told_apart():
    three = sites([1, 2, 3])
    assert differing_site(three, three[:2]) == "site 2, site.2 of width 3, is missing"
    assert differing_site(three[:2], three) == "site 2, site.2 of width 3, is not expected"


def test_sites_are_compared_by_name_unless_names_is_false():
    mine, theirs = [Site("a", 1, 0.0)], [Site("1", 1, 0.0)]
    assert differing_site(mine, theirs) == "site 0 is 1 of width 1 where a of width 1 is expected"
    assert differing_site(mine, theirs, names=False) is None
