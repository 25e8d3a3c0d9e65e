"""Batches fetched ahead are the same batches, earlier."""

import threading

import pytest

from a4a.training.loading import fetch_batches


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("numbers", [range(3, 8), range(2, 3), range(4, 4)])
def test_each_batch_comes_once_and_in_order(ahead, numbers):
    asked = []
    batches = list(fetch_batches(lambda n: asked.append(n) or {"number": n}, numbers, ahead))
    assert [b["number"] for b in batches] == asked == list(numbers)


def test_the_next_batch_is_fetched_while_the_caller_uses_this_one():
    second_fetched = threading.Event()
    batches = fetch_batches(lambda n: second_fetched.set() if n == 1 else {}, range(2), ahead=True)
    next(batches)
    assert second_fetched.wait(60)


def test_an_error_of_the_dataset_reaches_the_loop():
    def fetch(number):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        next(fetch_batches(fetch, range(2), ahead=True))
