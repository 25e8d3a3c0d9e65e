"""Atomic writes: write to a temporary path, then rename it, so that nobody sees a half-written file or folder."""

import errno
import json
import operator
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from a4a.errors import InputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another output folder",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.EACCES: "writing there is not allowed; choose another output folder or change its permissions",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another output folder",
    errno.EEXIST: "a part of that path is a file, not a folder; choose another output folder",
}


@contextmanager
def atomic_write(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path for a file or a folder, in the folder of `target`; rename it to `target` at the end.

    If anything fails, `target` stays as it was and the temporary path is removed.

    Raises InputError where the disk is full or the folder cannot be written.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _replace(temporary, target)
    except InputError:
        raise
    except Exception as error:
        if (cause := _system_error(error)) is None:
            raise
        reason = _REASONS.get(cause.errno or 0, cause.strerror or cause)
        raise InputError(f"Cannot write {target}: {reason}.") from error
    finally:
        with suppress(OSError):  # of a folder that may not even be looked into
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def _replace(temporary: Path, target: Path) -> None:
    if target.is_dir():  # a folder cannot be renamed onto another one
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
        os.rename(target, old)
        os.rename(temporary, target)
        shutil.rmtree(old)
    else:
        os.replace(temporary, target)


def _system_error(error: BaseException) -> OSError | None:
    """The operating system's error behind an exception.

    safetensors gives its number in the text alone; torch.save raises an error of its own while handling it.
    """
    if isinstance(error, OSError):
        return error
    if type(error).__name__ == "SafetensorError" and (number := re.search(r"os error (\d+)", str(error))):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return error.__context__ if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError) else None


def write_json(file: Path, value: Any, indent: int | None = None) -> None:
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(value, indent=indent))


def changed_setting(
    file: Path, settings: dict[str, Any], same: Callable[[Any, Any], bool] = operator.eq
) -> tuple[str, Any, Any] | None:
    """The first setting (name, recorded, given) in which `settings` differ from those recorded in a JSON file.

    None where all are the same; where there is no such file yet, the settings are recorded in it.
    """
    if not file.exists():
        write_json(file, settings, indent=1)
        return None
    recorded = json.loads(file.read_text())
    for name in {**recorded, **settings}:
        if not same(recorded.get(name), settings.get(name)):
            return name, recorded.get(name), settings.get(name)
    return None


def save_torch(value: Any, path: Path) -> None:
    """torch.save to an open file: given a path, torch hides the system's error and keeps the file open after it."""
    import torch  # here, so that importing this module stays quick

    with path.open("wb") as file:
        torch.save(value, file)


def slug(name: str) -> str:
    """A method's name as the name of a folder."""
    return re.sub(r"[^\w.+-]+", "-", name.replace("*", "-star")).strip("-")
