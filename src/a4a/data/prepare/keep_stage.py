"""The stage of `a4a prepare` that keeps the images of a split as files, as they are encoded."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from a4a.data.kept_images import KeptImage, split_folder, write_metadata
from a4a.data.manifest import SplitName
from a4a.data.prepare.crops import Crop
from a4a.data.prepare.filters import RejectedImage
from a4a.data.prepare.stages import Chunk, Stage, thread_map, views_or_rejection
from a4a.data.sources.base import ImageRecord, Source
from a4a.utils.files import atomic_write

JPEG_OPTIONS = {"quality": 95, "subsampling": 0}
"""Close to the original for a metric's eye: 0.2 to 0.4 MB at 1024 pixels."""


class KeepStage(Stage):
    """The middle view of every image of one split as a JPEG file, and a KeptImage of each.

    The stage has a folder of results for each split, so a later run can keep another split in addition.
    """

    def __init__(
        self, output: Path, source: Source, crop: Crop, split_of: Callable[[str], SplitName], split: SplitName
    ):
        super().__init__(output)
        self.name = f"kept/{split}"
        self.source, self.crop = source, replace(crop, views=1, flips=False)
        self.split_of = split_of
        self.split: SplitName = split

    def __call__(self, chunk: Chunk) -> None:
        records = [record for record in chunk.records if self.split_of(record.split_group) == self.split]
        with thread_map() as parallel:
            kept = [image for image in parallel(self._save, records) if image is not None]
        self.write_json(chunk, [asdict(image) for image in kept])

    def finish(self, chunks: Sequence[Chunk], ids: set[str]) -> None:
        """Writes the list of the split's images that are among `ids`, those in the shards."""
        images = [KeptImage(**row) for chunk in chunks for row in self.result(chunk)]
        write_metadata(self.output, self.split, [image for image in images if image.id in ids])

    def _save(self, record: ImageRecord) -> KeptImage | None:
        """None where the image cannot be read, which the encode stage reports."""
        views = views_or_rejection(self.source, record, self.crop)
        if isinstance(views, RejectedImage):
            return None
        image = KeptImage.of(record)
        with atomic_write(split_folder(self.output, self.split) / image.file_name) as temporary:
            views[0].image.save(temporary, format="JPEG", **JPEG_OPTIONS)
        return image
