"""Rows on disk as Arrow files: words in columns that are read at once, numbers in columns that are read a row at a time.

Numbers are read with `pread` at places found when the file is opened. A mapped file would be as fast, but what was
touched of it counts as resident memory, which then seems to grow by the size of the data.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from a4a.errors import InputError, first_line

OPEN_FILES = 64
"""Kept open at a time, whatever the number of shards."""


def write(path: Path, words: Mapping[str, pa.Array | Sequence], numbers: Mapping[str, Sequence[np.ndarray]]) -> None:
    """An Arrow file. `numbers` are arrays of any shape, one a row, all of a column of one type."""
    columns: dict[str, pa.Array] = {
        name: pa.array(values) if not isinstance(values, pa.Array) else values for name, values in words.items()
    }
    for name, rows in numbers.items():
        places = np.cumsum([0, *(row.size for row in rows)])
        flat = np.concatenate([row.reshape(-1) for row in rows]) if rows else np.empty(0, np.float16)
        columns[name] = pa.LargeListArray.from_arrays(pa.array(places, pa.int64()), pa.array(flat))
    table = pa.table(columns)
    with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read(path: Path, words: Sequence[str], numbers: Sequence[str]) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """The columns of words, and for each of numbers the bytes of the file where its rows begin, and where the last one ends.

    InputError where the file is none, is empty or lacks a column.
    """
    try:
        with pa.memory_map(str(path)) as file:
            start = file.read_buffer().address
            file.seek(0)
            table = pa.ipc.open_file(file).read_all()
            if missing := [name for name in (*words, *numbers) if name not in table.column_names]:
                raise InputError(
                    f"The shard {path} has no column {missing[0]!r}; run a4a prepare again with the step that makes it."
                )
            places = {}
            for name in numbers:
                column = table[name].chunk(0)
                _, offsets, _, values = column.buffers()
                width = column.values.type.bit_width // 8
                places[name] = np.frombuffer(offsets, np.int64)[: len(column) + 1] * width + (values.address - start)
            return {name: table[name].to_pylist() for name in words}, places
    except FileNotFoundError as error:
        raise InputError(f"The shard {path} is missing; copy it again, or run a4a prepare again.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"The shard {path} is no Arrow file ({first_line(error)}); copy it again, or run a4a prepare again."
        ) from error


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Files:
    """Reads from many files while few are open; from several threads, one at a time."""

    def __init__(self):
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, array: np.ndarray, path: Path, place: int) -> None:
        """Fills a contiguous array from a byte of the file on; InputError where the file ends before."""
        with self._lock:
            handle = self._handle(path)
            count = os.preadv(handle, [array.view(np.uint8).reshape(-1).data], place)
        if count != array.nbytes:
            raise InputError(
                f"The shard {path} was cut short while it was read; copy it again, or run a4a prepare again."
            )

    def _handle(self, path: Path) -> int:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = os.open(path, os.O_RDONLY)
        return self._open[path]

    def __getstate__(self):
        return {}

    def __setstate__(self, state):
        self.__init__()

    def __del__(self):
        for handle in self._open.values():
            os.close(handle)
