"""One folder of images per subject.

my-photos/tom/1.jpg
my-photos/tom/1.txt         a cat on a sofa (where it has a caption)
my-photos/mia/1.jpg
"""

from a4a.data.sources.base import ImageRecord, first_few, sorted_records
from a4a.data.sources.image_folder import ImageFolder


class SubjectFolders(ImageFolder):
    """Images in one folder per subject; the folder's name is the subject's. Captions as in `ImageFolder`.

    Args:
        path: of the folder that holds the subjects' folders.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self._loose: list[str] = []

    def records(self) -> list[ImageRecord]:
        records = super().records()
        self._loose = [record.id for record in records if not record.subject]
        return sorted_records(
            [record for record in records if record.subject],
            f"{self.path} has no images in folders; give one with a folder for each subject.",
        )

    def warnings(self) -> list[str]:
        if not self._loose:
            return super().warnings()
        return [
            *super().warnings(),
            f"{len(self._loose)} images are not used because they are in no subject's folder: "
            f"{first_few(self._loose)}.",
        ]

    def subject(self, name: str) -> str | None:
        return name.partition("/")[0] if "/" in name else None
