"""The end of `a4a prepare`: the report on images, the manifest, and the lines that the user reads."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from a4a.data.manifest import FORMAT, SPLITS
from a4a.data.prepare.encode_stage import EncodeStage
from a4a.data.prepare.keep_stage import KeepStage
from a4a.data.prepare.stages import Chunk
from a4a.data.sources.base import HOW_TO_CAPTION, ImageRecord, Source, first_few
from a4a.errors import InputError
from a4a.utils.files import atomic_write

REMEDY = "set crop.size to what they have, or crop.enlarge to true"
"""For images that are smaller than their crop."""


@dataclass
class Summary:
    """What all shards together hold."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    records: list[ImageRecord] = field(default_factory=list)
    """Of the images in the shards."""
    left_out: list[dict[str, str]] = field(default_factory=list)
    """Lines for the report on images that could not be encoded."""
    enlarged: list[dict[str, str]] = field(default_factory=list)
    """Lines for the report on images that are smaller than their crop."""
    latents: dict[str, list[int]] = field(default_factory=dict)
    """Shape by bucket."""
    encoders: dict[str, Any] = field(default_factory=lambda: {"models": None, "text": None, "embeds": None})
    """Fingerprints and shapes; the same in all shards."""

    @property
    def without_caption(self) -> list[str]:
        return [record.id for record in self.records if not record.text]


def finish(
    output: Path,
    settings: dict[str, Any],
    source: Source,
    listed: int,
    chunks: Sequence[Chunk],
    report: list[dict[str, str]],
    stage: EncodeStage,
    keep_stages: Sequence[KeepStage],
) -> None:
    """Writes the report and the lists of kept images, then the manifest: a folder with a manifest is complete.

    Prints what was made.
    """
    summary = _summarise(chunks, stage)
    lines = report + summary.left_out + summary.enlarged
    report = sorted(lines, key=lambda line: ("left_out" not in line, "repaired" not in line, line["id"]))
    left_out, repaired = (sum(kind in line for line in report) for kind in ("left_out", "repaired"))
    if not summary.records:
        reasons = Counter(line["left_out"].partition(":")[0] for line in report if "left_out" in line).most_common(1)
        remedy = REMEDY if reasons[0][0] == "small" else "set check to null to keep all that can be read"
        raise InputError(
            f"Nothing is left of {listed} images ({reasons[0][0]}: {reasons[0][1]}); give other images, or {remedy}."
        )
    warnings = source.warnings() + _size_warnings(report, listed) + _caption_warning(summary)
    with atomic_write(output / "report.jsonl") as temporary:
        lines = [{"warning": text} for text in warnings] + report
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _write_unconditional(output, stage)
    for keep_stage in keep_stages:
        keep_stage.finish(chunks, {record.id for record in summary.records})
    counts: Counter[str] = Counter(stage.split(record.split_group) for record in summary.records)
    manifest = {
        "format": FORMAT,
        "made_by": f"a4a {version('a4a')}",
        "source": {
            "class": type(source).__name__,
            **{name: value for name, value in vars(source).items() if isinstance(value, str)},
        },
        "settings": settings,
        **summary.encoders,
        "sizes": stage.crop.sizes,
        "views": stage.crop.views,
        "flips": stage.crop.flips,
        "latents": summary.latents,
        "counts": {
            "listed": listed,
            "left_out": left_out,
            "repaired": repaired,
            "enlarged": len(summary.enlarged),
            "rows": len(summary.records),
            "without_caption": len(summary.without_caption),
            **counts,
        },
        "shards": summary.shards,
    }
    with atomic_write(output / "manifest.json") as temporary:
        temporary.write_text(json.dumps(manifest, indent=1))
    splits = ", ".join(f"{name} {counts[name]:,}" for name in SPLITS)
    print(
        f"{output}: {len(summary.records):,} of {listed:,} images ({splits}); {left_out:,} left out, "
        f"{repaired:,} repaired: {output / 'report.jsonl'}"
    )
    for text in warnings:
        print(f"Warning: {text}", file=sys.stderr)


def _summarise(chunks: Sequence[Chunk], stage: EncodeStage) -> Summary:
    """Adds up the shards; InputError where one was made by other models than those before it."""
    summary = Summary()
    for chunk in chunks:
        facts = stage.result(chunk)
        summary.shards.append({"name": chunk.name, "rows": facts["rows"], "files": facts["files"]})
        summary.left_out += [{"id": name, "left_out": reason} for name, reason in facts["left_out"].items()]
        summary.enlarged += [{"id": name, "enlarged": sizes} for name, sizes in facts.get("enlarged", {}).items()]
        summary.records += [record for record in chunk.records if record.id not in facts["left_out"]]
        summary.latents |= facts.get("latents", {})
        for name, before in summary.encoders.items():
            now = facts.get(name, before)
            if before is not None and now != before:
                raise InputError(
                    f"The shard {stage.path(chunk)} was made with other {name} than those before it; "
                    "remove its folder and run again."
                )
            summary.encoders[name] = now
    return summary


def _size_warnings(report: Sequence[dict[str, str]], listed: int) -> list[str]:
    """How many images are smaller than their crop, and what that means."""
    small = [line["id"] for line in report if line.get("left_out", "").startswith("small:")]
    enlarged = [line["id"] for line in report if "enlarged" in line]
    warnings = []
    if small:
        warnings.append(
            f"{len(small):,} of {listed:,} images are left out because they are smaller than the crop "
            f"({first_few(small)}); to use them, {REMEDY}."
        )
    if enlarged:
        warnings.append(
            f"{len(enlarged):,} of {listed:,} images are smaller than the crop and enlarged ({first_few(enlarged)}); "
            "an adapter for a model that is not told the original size learns their blur."
        )
    return warnings


def _caption_warning(summary: Summary) -> list[str]:
    missing = summary.without_caption
    if not missing:
        return []
    return [
        f"{len(missing):,} of {len(summary.records):,} images have no caption ({first_few(missing)}), so training "
        f"learns from an empty text for them; {HOW_TO_CAPTION}. Then prepare into another output folder."
    ]


def _write_unconditional(output: Path, stage: EncodeStage) -> None:
    """What guidance uses where there is no prompt or no image, kept so that training needs no encoder."""
    if stage.encoders is None:
        return
    for name, encode in (("no_text", stage.encoders.no_text), ("no_image", stage.encoders.no_image)):
        file = output / f"{name}.safetensors"
        if not file.exists():
            with atomic_write(file) as temporary:
                save_file(encode(), temporary)
