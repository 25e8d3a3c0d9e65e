"""Shards on disk: Arrow files with small columns that are read whole, and arrays that are read one row at a time.

Arrays are read with `pread` at offsets found when the file is opened. A memory map would be as fast, but the pages that
it touched count as resident memory, which then seems to grow to the size of the data.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from a4a.errors import InputError, first_line

MAX_OPEN_FILES = 64
"""Files that a FilePool keeps open at a time, however many shards there are."""
REPAIR = "copy it again, or run a4a prepare again"


def write(path: Path, columns: Mapping[str, pa.Array | Sequence], arrays: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Writes an Arrow file.

    Args:
        path: of the file.
        columns: names, texts, flags: one value per row.
        arrays: one array per row, of any shape; all arrays of a column have one dtype. Shapes are not stored.
    """
    table: dict[str, pa.Array] = {
        name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()
    }
    for name, rows in arrays.items():
        ends = np.cumsum([0, *(row.size for row in rows)])
        flat = np.concatenate([row.reshape(-1) for row in rows]) if rows else np.empty(0, np.float16)
        table[name] = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(flat))
    content = pa.table(table)
    with path.open("wb") as file, pa.ipc.new_file(file, content.schema) as writer:
        writer.write_table(content)


def read(path: Path, columns: Sequence[str], arrays: Sequence[str]) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """Reads columns whole; of arrays, the byte offsets in the file where each row begins (and where the last one ends).

    InputError where the file is missing, is no Arrow file or lacks a column.
    """
    try:
        with pa.memory_map(str(path)) as file:
            base_address = file.read_buffer().address
            file.seek(0)
            table = pa.ipc.open_file(file).read_all()
            if missing := [name for name in (*columns, *arrays) if name not in table.column_names]:
                raise InputError(
                    f"The shard {path} has no column {missing[0]!r}; run a4a prepare again with the step that makes it."
                )
            offsets = {name: _row_offsets(table[name].chunk(0), base_address) for name in arrays}
            return {name: table[name].to_pylist() for name in columns}, offsets
    except FileNotFoundError as error:
        raise InputError(f"The shard {path} is missing; {REPAIR}.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"The shard {path} is no Arrow file ({first_line(error)}); {REPAIR}.") from error


def _row_offsets(column: Any, base_address: int) -> np.ndarray:
    _, ends, _, values = column.buffers()
    item_bytes = column.values.type.bit_width // 8
    return np.frombuffer(ends, np.int64)[: len(column) + 1] * item_bytes + (values.address - base_address)


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FilePool:
    """Reads from many files and keeps few of them open; threads take turns."""

    def __init__(self):
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, array: np.ndarray, path: Path, offset: int) -> None:
        """Fills a contiguous array with the file's bytes from `offset` on; InputError where the file ends before."""
        with self._lock:
            count = os.preadv(self._handle(path), [array.view(np.uint8).reshape(-1).data], offset)
        if count != array.nbytes:
            raise InputError(f"The shard {path} was cut short while it was read; {REPAIR}.")

    def _handle(self, path: Path) -> int:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = os.open(path, os.O_RDONLY)
        return self._open[path]

    def __getstate__(self):
        return {}  # file handles do not travel to other processes

    def __setstate__(self, state):
        self.__init__()

    def __del__(self):
        for handle in self._open.values():
            os.close(handle)
