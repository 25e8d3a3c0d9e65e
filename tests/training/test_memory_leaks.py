"""The short form of benchmarks/memory_leaks.py."""

from memory_leaks import measured


def test_memory_and_open_files_do_not_grow():
    found = measured(steps=120, first=40, every=20)
    assert found["step"] == [40, 60, 80, 100, 120]
    assert max(found["files"]) == found["files"][0]
    assert max(found["bytes"]) - found["bytes"][0] < 24 * 2**20
