"""What decides the result of `a4a prepare`, kept in the output folder so that a later run cannot mix two results."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from a4a.data.sources.base import ImageRecord, Source
from a4a.errors import InputError
from a4a.utils.files import changed_setting
from a4a.utils.fingerprint import file_fingerprint

IRRELEVANT = ("batch",)
"""Options that do not change the result."""


def collect_settings(source: Source, records: Sequence[ImageRecord], options: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides what comes out, by option name; models by their files, wherever those are."""
    listing = hashlib.sha256(json.dumps([asdict(record) for record in records]).encode()).hexdigest()[:16]
    settings: dict[str, Any] = {f"source.{name}": value for name, value in source.identity().items()}
    settings["data"] = f"{len(records)} images, {listing}"
    for group, config in options.items():
        if config is None or isinstance(config, int):
            settings[group] = config
            continue
        for option, value in asdict(config).items():
            if option in ("image_encoders", "token_encoders"):
                settings |= {f"{group}.{option}.{name}": _model(path) for name, path in value.items()}
            elif option in ("model", "arcface"):
                settings[f"{group}.{option}"] = _model(value)
            elif option not in IRRELEVANT:
                settings[f"{group}.{option}"] = value
    return settings


def claim_folder(output: Path, settings: dict[str, Any]) -> None:
    """Marks a folder as made with these settings; InputError with the difference where it was made with others."""
    file = output / "settings.json"
    if not file.exists():
        remove_unfinished(output)
        if output.exists() and any(output.iterdir()):
            raise InputError(f"{output} holds something else than prepared data; choose another output folder.")
    if (changed := changed_setting(file, settings, same=_same)) is not None:
        name, recorded, given = changed
        raise InputError(
            f"{output} was made with {name} = {_as_text(recorded)}, not {_as_text(given)}; "
            "choose another output folder or remove this one."
        )


def lock_folder(output: Path) -> AcquireReturnProxy:
    """Keeps other runs out: their unfinished files could not be told from those of a run that was killed."""
    try:
        return FileLock(output / "lock").acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"Another a4a prepare is at work in {output}; wait until it ends, or choose another output folder."
        ) from error


def remove_unfinished(folder: Path) -> None:
    """Removes temporary files and folders that a killed run left."""
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _model(path: Path | None) -> dict[str, str] | None:
    return None if path is None else {"name": str(path), "fingerprint": file_fingerprint(path)}


def _same(recorded: Any, given: Any) -> bool:
    """A model under another name is the same where its files are."""
    if isinstance(recorded, dict) and isinstance(given, dict):
        return recorded["fingerprint"] == given["fingerprint"]
    return recorded == given


def _as_text(setting: Any) -> str:
    if isinstance(setting, dict):
        return f"{setting['name']} ({setting['fingerprint']})"
    return "nothing" if setting is None else str(setting)
