"""A local cache of the hub, as huggingface_hub keeps it."""

import hashlib
import os
from pathlib import Path


def add_to_cache(cache: Path, name: str, folder: Path) -> None:
    """Put a folder into the cache under its hub name: blobs, a snapshot with links to them, and the ref `main`."""
    repo = cache / f"models--{name.replace('/', '--')}"
    commit = hashlib.sha1(name.encode()).hexdigest()
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        relative = file.relative_to(folder)
        blob = repo / "blobs" / hashlib.sha256(str(relative).encode()).hexdigest()
        os.link(file, blob)
        link = repo / "snapshots" / commit / relative
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
