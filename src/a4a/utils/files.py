"""Writing so that nobody ever sees a half-written file or folder: beside the target first, then renamed."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from a4a.errors import InputError


@contextmanager
def atomic_write(target: Path | str) -> Iterator[Path]:
    """Gives a path beside `target` to write a file or a folder to; renames it to `target` when all went well.

    Raises InputError where the disk is full or the place cannot be written, and leaves `target` as it was.
    """
    target = Path(target)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _rename(beside, target)
    except InputError:
        raise
    except Exception as error:
        if (cause := _system_error(error)) is None:
            raise
        raise _sentence(cause, target) from error
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def save_torch(value: Any, path: Path) -> None:
    """torch.save through a file of Python's: given a path, torch loses the system's error and keeps the file open after it."""
    import torch  # here, so that what only names files stays quick to import

    with path.open("wb") as file:
        torch.save(value, file)


def _system_error(error: BaseException) -> OSError | None:
    """What the system said: safetensors tells its number in the text alone, torch.save fails once more on top of it."""
    if isinstance(error, OSError):
        return error
    if type(error).__name__ == "SafetensorError" and (number := re.search(r"os error (\d+)", str(error))):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return error.__context__ if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError) else None


def _rename(beside: Path, target: Path) -> None:
    if target.is_dir():
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
        os.rename(target, old)
        os.rename(beside, target)
        shutil.rmtree(old)
    else:
        os.replace(beside, target)


def _sentence(error: OSError, target: Path) -> InputError:
    reasons = {
        errno.ENOSPC: "the disk is full; free some space or choose another output folder",
        errno.EROFS: "the file system is read-only; choose another output folder",
        errno.EACCES: "writing there is not allowed; choose another output folder or change its permissions",
        errno.ENOTDIR: "a part of that path is a file, not a folder; choose another output folder",
        errno.EEXIST: "a part of that path is a file, not a folder; choose another output folder",
    }
    return InputError(f"Cannot write {target}: {reasons.get(error.errno or 0, error.strerror or error)}.")


def slug(name: str) -> str:
    """A method's name as a folder's."""
    return re.sub(r"[^\w.+-]+", "-", name.replace("*", "-star")).strip("-")
