"""Metrics whose values hang on more than one picture: retrieval, diversity, KID."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.image.kid import KernelInceptionDistance

import tiny_encoders
from a4a.encoders import ImageEncoder
from a4a.errors import InputError
from a4a.evaluation.metrics import KID, Diversity, GeneratedSet, Retrieval


class VectorsByRow(ImageEncoder):
    """An encoder whose unit vectors are given: the red value of an image is the number of its row."""

    image_embed_dim = None

    def __init__(self, rows):
        self.rows = torch.nn.functional.normalize(torch.as_tensor(rows, dtype=torch.float32), dim=-1)
        self.key = f"rows {id(rows)}"

    def __call__(self, images):
        return self.rows[[image.getpixel((0, 0))[0] for image in images]]

    def unit_vectors(self, images):
        return self(images)  # normalised already

    def to(self, device=None, dtype=None):
        return self

    def fingerprint(self):
        return self.key


def generated(references, pictures):
    def image(row):
        return tiny_encoders.Image.new("RGB", (1, 1), (int(row), 0, 0))

    made = [[image(r) for r in row] for row in pictures]
    return GeneratedSet([image(r) for r in references], [["a cat"] * len(row) for row in made], made)


def test_retrieval_counts_the_nearest_reference_and_no_tie():
    rows = [[1, 0], [0, 1], [0.9, 0.1], [1, 1], [np.nan, np.nan]]
    found = Retrieval(VectorsByRow(rows))(generated([0, 1], [[2, 3, 0], [2, 4, 1]]))["retrieval"]
    assert found[0].tolist() == [1, 0, 1]
    assert found[1, [0, 2]].tolist() == [0, 1]
    assert np.isnan(found[1, 1])


def test_retrieval_of_one_subject_is_refused():
    with pytest.raises(
        InputError, match=r"^Retrieval was given one subject, among which every image is found; give at least two\.$"
    ):
        Retrieval(VectorsByRow([[1, 0]]))(generated([0], [[0]]))


def test_diversity_is_the_mean_distance_of_pairs_that_have_vectors():
    rows = [[1, 0], [0, 1], [-1, 0], [np.nan, np.nan]]
    found = Diversity(VectorsByRow(rows))(generated([0] * 4, [[0, 1, 2], [0, 0, 0], [0, 3, 1], [3, 3, 0]]))["diversity"]
    assert found[:3] == pytest.approx([(1 + 2 + 1) / 3, 0, 1])
    assert np.isnan(found[3])


def test_diversity_of_one_image_per_subject_is_refused():
    with pytest.raises(
        InputError, match=r"^Diversity was given one image for each reference; generate at least two\.$"
    ):
        Diversity(VectorsByRow([[1, 0]]))(generated([0], [[0]]))


def kid(references, pictures):
    """KID of vectors [n, width] and [n, generations, width]."""
    n, generations = pictures.shape[:2]
    rows = torch.cat([references, pictures.flatten(0, 1)])
    return KID(VectorsByRow(rows))(generated(range(n), np.arange(n, n + n * generations).reshape(n, generations)))[
        "kid"
    ]


def unit(*shape, seed):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kid_equals_torchmetrics_except_for_pairs_of_image_and_own_reference():
    n = 20
    references, pictures = unit(n, 8, seed=0), unit(n, 1, 8, seed=1)
    theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=n, gamma=1.0)
    theirs.update(references, real=True)
    theirs.update(pictures[:, 0], real=False)
    cross = (references @ pictures[:, 0].T + 1) ** 3
    own = 2 * cross.mean() - 2 * (cross.sum() - cross.trace()) / (n * (n - 1))
    assert kid(references, pictures).mean == pytest.approx(float(theirs.compute()[0] + own), abs=1e-5)


def test_kid_averages_over_generations():
    references, pictures = unit(10, 8, seed=0), unit(10, 3, 8, seed=1)
    assert kid(references, pictures).mean == pytest.approx(
        np.mean([kid(references, pictures[:, [g]]).mean for g in range(3)])
    )


def test_kid_of_two_draws_of_one_distribution_is_zero_on_average_and_inside_its_interval():
    found = [kid(unit(30, 6, seed=2 * i), unit(30, 2, 6, seed=2 * i + 1)) for i in range(60)]
    means = np.array([f.mean for f in found])
    assert abs(means.mean()) < 3 * means.std() / np.sqrt(60)
    assert np.mean([f.low <= 0 <= f.high for f in found]) > 0.85


def test_the_interval_of_kid_excludes_zero_for_a_shifted_distribution():
    shifted = torch.nn.functional.normalize(unit(30, 2, 6, seed=1) + torch.tensor([1.0, 0, 0, 0, 0, 0]), dim=-1)
    found = kid(unit(30, 6, seed=0), shifted)
    assert found.low > 0
    assert (found.subjects, found.pictures) == (30, 60)


def test_kid_leaves_out_subjects_without_all_vectors():
    references, pictures = unit(10, 4, seed=0), unit(10, 2, 4, seed=1)
    pictures[3, 1] = torch.nan
    keep = [i for i in range(10) if i != 3]
    found, expected = kid(references, pictures), kid(references[keep], pictures[keep])
    assert (found.mean, found.low, found.subjects, found.pictures) == pytest.approx(
        (expected.mean, expected.low, 9, 18)
    )


def test_kid_of_two_subjects_is_refused():
    with pytest.raises(
        InputError, match=r"^KID has 2 subjects whose images could all be encoded; give at least three\.$"
    ):
        kid(unit(2, 4, seed=0), unit(2, 1, 4, seed=1))


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 100))
def test_retrieval_is_between_none_and_all(subjects, generations, seed):
    rows = unit(subjects * (generations + 1), 3, seed=seed)
    pictures = np.arange(subjects, len(rows)).reshape(subjects, generations)
    found = Retrieval(VectorsByRow(rows))(generated(range(subjects), pictures))["retrieval"]
    near = (rows[pictures.flatten()] @ rows[:subjects].T).argmax(dim=1).reshape(subjects, generations)
    assert np.array_equal(found, near.numpy() == np.arange(subjects)[:, None])
