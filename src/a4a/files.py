"""Writing so that nobody ever sees a half-written file or folder: beside the target first, then renamed."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from a4a.errors import InputError


@contextmanager
def replacing(target: Path | str) -> Iterator[Path]:
    """Gives a path beside `target` to write a file or a folder to; renames it to `target` when all went well.

    Raises InputError where the disk is full or the place cannot be written, and leaves `target` as it was.
    """
    target = Path(target)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _rename(beside, target)
    except OSError as error:
        raise _sentence(error, target) from error
    except Exception as error:
        # safetensors and torch wrap the system's error in their own; the cause is in the text alone.
        if "No space left" in str(error) or "StorageFull" in str(error):
            raise _sentence(OSError(errno.ENOSPC, "No space left on device"), target) from error
        raise
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True) if os.access(target.parent, os.W_OK) else None


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
