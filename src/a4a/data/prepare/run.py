"""`a4a prepare`: from images to shards that training reads, one stage and one chunk at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from a4a.data.manifest import SplitName
from a4a.data.prepare.captioning import CaptionConfig
from a4a.data.prepare.crops import Crop
from a4a.data.prepare.encode_stage import EncodeStage
from a4a.data.prepare.encoding import EncodeConfig
from a4a.data.prepare.filters import CheckConfig
from a4a.data.prepare.keep_stage import KeepStage
from a4a.data.prepare.ray_runner import run_on_ray
from a4a.data.prepare.settings import claim_folder, collect_settings, lock_folder, remove_unfinished
from a4a.data.prepare.splits import Split
from a4a.data.prepare.stages import CaptionStage, CheckStage, Chunk, Stage
from a4a.data.prepare.summary import finish
from a4a.data.sources import Source
from a4a.errors import InputError


def prepare(
    source: Source,
    output: Path,
    check: CheckConfig | None = CheckConfig(),
    crop: Crop = Crop(),
    caption: CaptionConfig | None = None,
    encode: EncodeConfig | None = None,
    split: Split = Split(),
    chunk: int = 512,
    ray: bool = False,
    workers: int = 1,
    keep_images: list[SplitName] = ["validation", "test"],  # noqa: B006
) -> None:
    """Check, crop, caption, encode and split images once, into shards that training reads; a stopped run continues.

    Args:
        source: Where the images are, for example class_path ImageFolder with path.
        output: Folder for the shards, manifest.json and report.jsonl (images left out or repaired and why, warnings).
        check: Which images are left out; null to take all that can be read.
        crop: At what size and in which views images are encoded.
        caption: The model that writes captions where images have none; by default they stay without.
        encode: The models that encode images and captions; without them there are ids, captions and splits only.
        split: Shares of the subjects for validation and test. From three subjects on, neither is empty.
        chunk: Images per shard, and at most what has to be done again after a kill.
        ray: Run the stages as Ray Data actors, on the cluster that RAY_ADDRESS names if any.
        workers: Actors of each stage, with a GPU each where there is one.
        keep_images: Splits whose images are kept as JPEG files in output/images/SPLIT, one folder per subject, with
            their captions in a metadata.jsonl: those of validation and test are what methods are scored on. With train,
            too, what needs the images themselves can be trained on them (a4a x-adapter). A later run may keep more.
    """
    output = Path(output)
    for name, value in (("chunk", chunk), ("workers", workers)):
        if value < 1:
            raise InputError(f"{name} is {value}; expected at least 1.")
    records = source.records()
    options = {"check": check, "crop": crop, "caption": caption, "encode": encode, "split": split, "chunk": chunk}
    settings = collect_settings(source, records, options)
    claim_folder(output, settings)
    ray_workers = workers if ray else 0
    with lock_folder(output):
        chunks = [Chunk(i, records[start : start + chunk]) for i, start in enumerate(range(0, len(records), chunk))]
        report: list[dict[str, str]] = []
        if check is not None:
            check_stage = CheckStage(output, source, check, crop)
            _run(check_stage, chunks, ray_workers)
            chunks, report = check_stage.survivors(chunks)
        if caption is not None:
            chunks = _caption(CaptionStage(output, source, crop, caption), chunks, ray_workers)
        split_of = split.among({record.split_group for part in chunks for record in part.records})
        keep_stages = [KeepStage(output, source, crop, split_of, name) for name in keep_images]
        for keep_stage in keep_stages:
            _run(keep_stage, chunks, ray_workers)
        encode_stage = EncodeStage(output, source, crop, encode, split_of)
        _run(encode_stage, chunks, ray_workers)
        finish(output, settings, source, len(records), chunks, report, encode_stage, keep_stages)


def _caption(stage: CaptionStage, chunks: Sequence[Chunk], ray_workers: int) -> list[Chunk]:
    """The chunks with captions. The stage, and so its model, is freed on return, before the encoders are loaded."""
    _run(stage, chunks, ray_workers)
    return [stage.with_captions(chunk) for chunk in chunks]


def _run(stage: Stage, chunks: Sequence[Chunk], ray_workers: int) -> None:
    """Does the chunks that are not finished yet, here or on `ray_workers` actors, with a progress bar."""
    remove_unfinished(stage.output / stage.name)
    unfinished = stage.unfinished(chunks)
    total, left = (sum(len(chunk.records) for chunk in part) for part in (chunks, unfinished))
    counts = run_on_ray(stage, unfinished, ray_workers) if ray_workers and unfinished else _run_here(stage, unfinished)
    with tqdm(total=total, initial=total - left, desc=stage.name, unit="image", disable=not unfinished) as bar:
        for count in counts:
            bar.update(count)


def _run_here(stage: Stage, chunks: Sequence[Chunk]) -> Iterator[int]:
    for chunk in chunks:
        stage(chunk)
        yield len(chunk.records)
