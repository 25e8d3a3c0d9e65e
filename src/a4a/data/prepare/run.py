"""`a4a prepare`: from pictures to shards that training reads, a step and a chunk at a time."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout
from safetensors.torch import save_file
from tqdm import tqdm

from a4a.data.manifest import FORMAT
from a4a.data.prepare.captioning import Caption
from a4a.data.prepare.crops import Crop
from a4a.data.prepare.encoding import Encode
from a4a.data.prepare.filters import Check
from a4a.data.prepare.ray_runner import over_cluster
from a4a.data.prepare.splits import Split
from a4a.data.prepare.stages import Captioning, Checking, Chunk, Encoding, Step, survivors
from a4a.data.sources import (
    ImageRecord,
    Source,
    openimages,  # noqa: F401 (so that its classes are known by their names)
)
from a4a.errors import InputError
from a4a.utils.files import atomic_write, changed_setting
from a4a.utils.fingerprint import file_fingerprint


def prepare(
    source: Source,
    output: Path,
    check: Check | None = Check(),
    crop: Crop = Crop(),
    caption: Caption | None = None,
    encode: Encode | None = None,
    split: Split = Split(),
    chunk: int = 512,
    ray: bool = False,
    workers: int = 1,
) -> None:
    """Check, crop, caption, encode and split pictures once, into shards that training reads; a stopped run goes on.

    Args:
        source: Where the pictures are, for example class_path ImageFolder with path.
        output: Folder for the shards, manifest.json and report.jsonl (what was left out or mended, and why).
        check: Which pictures are left out; null to take all that can be read.
        crop: At what size and in which views pictures are encoded.
        caption: What writes captions where pictures have none; by default nothing does.
        encode: The models that training takes its data from; without them there are ids, texts and splits alone.
        split: Shares of the subjects for validation and test.
        chunk: Pictures of a shard, and at most what a kill makes be done twice.
        ray: Run the steps as Ray Data actors, on the cluster that RAY_ADDRESS names if any.
        workers: Actors of each step, with a GPU each where there is one.
    """
    output = Path(output)
    for name, value in (("chunk", chunk), ("workers", workers)):
        if value < 1:
            raise InputError(f"{name} is {value}; expected at least 1.")
    items = source.items()
    settings = _settings(source, items, check, crop, caption, encode, split, chunk)
    _claim(output, settings)
    with _alone(output):
        chunks = [
            Chunk(number, items[start : start + chunk]) for number, start in enumerate(range(0, len(items), chunk))
        ]

        def run(step: Step, over: Sequence[Chunk]) -> None:
            _sweep(output / step.name)
            missing = step.missing(over)
            left = sum(len(c.items) for c in missing)
            total = sum(len(c.items) for c in over)
            with tqdm(total=total, initial=total - left, desc=step.name, unit="picture", disable=not missing) as bar:
                for count in over_cluster(step, missing, workers) if ray and missing else _here(step, missing):
                    bar.update(count)

        report: list[dict[str, str]] = []
        if check is not None:
            checking = Checking(output, source, check)
            run(checking, chunks)
            chunks, report = survivors(chunks, checking)
        if caption is not None:
            captioning = Captioning(output, source, crop, caption)
            run(captioning, chunks)
            chunks = [_captioned(c, captioning) for c in chunks]
            del captioning  # and its model, before those that encode are loaded
        encoding = Encoding(output, source, crop, encode, split)
        run(encoding, chunks)
        _finish(output, settings, source, len(items), chunks, report, encoding)


def _alone(output: Path) -> AcquireReturnProxy:
    """Keeps the folder for this run: another's half-written parts look like those of a run that was killed."""
    try:
        return FileLock(output / "lock").acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"Another a4a prepare is at work in {output}; wait until it ends, or choose another output folder."
        ) from error


def _here(step: Step, chunks: Sequence[Chunk]):
    for chunk in chunks:
        step(chunk)
        yield len(chunk.items)


def _captioned(chunk: Chunk, captioning: Captioning) -> Chunk:
    said = captioning.result(chunk) if captioning.place(chunk).exists() else {}
    return Chunk(chunk.number, [replace(i, text=said.get(i.id)) if i.text is None else i for i in chunk.items])


def _sweep(folder: Path) -> None:
    """Removes what a killed run left half-written; the parts of two runs at a time cannot be told apart."""
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _settings(source: Source, items: Sequence[ImageRecord], *groups: Any) -> dict[str, Any]:
    """All that decides what comes out, by names of options; models by what they are, whatever their place."""
    listing = hashlib.sha256(json.dumps([asdict(item) for item in items]).encode()).hexdigest()[:16]
    found: dict[str, Any] = {f"source.{name}": value for name, value in source.facts().items()} | {
        "data": f"{len(items)} pictures, {listing}"
    }
    for name, group in zip(("check", "crop", "caption", "encode", "split", "chunk"), groups, strict=True):
        if group is None or isinstance(group, int):
            found[name] = group
            continue
        for option, value in asdict(group).items():
            if option == "image_encoders":
                found |= {f"{name}.{option}.{key}": _model(path) for key, path in value.items()}
            elif option in ("model", "arcface"):
                found[f"{name}.{option}"] = _model(value)
            elif option != "batch":
                found[f"{name}.{option}"] = value
    return found


def _model(path: Path | None) -> dict[str, str] | None:
    return None if path is None else {"name": str(path), "fingerprint": file_fingerprint(path)}


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Marks a folder as belonging to these settings; InputError with the difference where it belongs to others."""
    file = output / "settings.json"
    if not file.exists():
        _sweep(output)
        if output.exists() and any(output.iterdir()):
            raise InputError(f"{output} holds something else than prepared data; choose another output folder.")
    if (changed := changed_setting(file, settings, same=_same_setting)) is not None:
        name, recorded, given = changed
        raise InputError(
            f"{output} was made with {name} = {_setting_text(recorded)}, not {_setting_text(given)}; "
            "choose another output folder or remove this one."
        )


def _same_setting(recorded: Any, given: Any) -> bool:
    """Models are the same where their weights are, wherever they lie."""
    if isinstance(recorded, dict) and isinstance(given, dict):
        return recorded["fingerprint"] == given["fingerprint"]
    return recorded == given


def _setting_text(setting: Any) -> str:
    if isinstance(setting, dict):
        return f"{setting['name']} ({setting['origin']})"
    return "nothing" if setting is None else str(setting)


def _finish(
    output: Path,
    settings: dict[str, Any],
    source: Source,
    listed: int,
    chunks: Sequence[Chunk],
    report: list[dict[str, str]],
    encoding: Encoding,
) -> None:
    """Writes the report, then the manifest: where that is, all is."""
    counts: Counter[str] = Counter()
    made: dict[str, Any] = {"models": None, "text": None, "embeds": None}
    latents: dict[str, list[int]] = {}
    listing = []
    for chunk in chunks:
        facts = encoding.result(chunk)
        listing.append({"name": chunk.name, "rows": facts["rows"], "files": facts["files"]})
        report += [{"id": name, "left_out": reason} for name, reason in facts["left_out"].items()]
        kept = [i for i in chunk.items if i.id not in facts["left_out"]]
        counts.update(rows=len(kept), without_text=sum(not i.text for i in kept))
        counts.update(encoding.split(i.group or i.subject or i.id) for i in kept)
        latents |= facts.get("latents", {})
        for name in made:
            if name in facts and made[name] not in (None, facts[name]):
                raise InputError(
                    f"The shard {encoding.place(chunk)} was made by other {name} than those before it; remove its folder and run again."
                )
            made[name] = facts.get(name, made[name])
    if not counts["rows"]:
        reasons = Counter(line["left_out"].partition(":")[0] for line in report if "left_out" in line).most_common(1)
        raise InputError(
            f"Nothing is left of {listed} pictures ({reasons[0][0]}: {reasons[0][1]}); see what a check says of them or set check to null."
        )
    order = {"left_out": 0, "repaired": 1}
    report.sort(key=lambda line: (min(order[k] for k in line if k in order), line["id"]))
    with atomic_write(output / "report.jsonl") as beside:
        beside.write_text("".join(json.dumps(line) + "\n" for line in report))
    if encoding.encoders is not None and not (output / "no_text.safetensors").exists():
        with atomic_write(output / "no_text.safetensors") as beside:
            save_file(encoding.encoders.no_text(), beside)
    left_out = sum("left_out" in line for line in report)
    manifest = {
        "format": FORMAT,
        "made_by": f"a4a {version('a4a')}",
        "source": {
            "class": type(source).__name__,
            **{k: str(v) for k, v in vars(source).items() if isinstance(v, str)},
        },
        "settings": settings,
        **made,
        "sizes": encoding.crop.sizes,
        "views": encoding.crop.views,
        "flips": encoding.crop.flips,
        "latents": latents,
        "counts": {"listed": listed, "left_out": left_out, "repaired": len(report) - left_out, **counts},
        "shards": listing,
    }
    with atomic_write(output / "manifest.json") as beside:
        beside.write_text(json.dumps(manifest, indent=1))
    said = ", ".join(f"{name} {counts[name]}" for name in ("train", "validation", "test"))
    print(
        f"{output}: {counts['rows']} of {listed} pictures ({said}); {left_out} left out, {len(report) - left_out} mended: {output / 'report.jsonl'}"
    )
