"""A benchmark on the images that `a4a prepare` kept out of training."""

from pathlib import Path

from PIL import Image

from a4a.data.kept_images import KeptImage, read_kept_images, split_folder
from a4a.data.manifest import SplitName
from a4a.errors import InputError
from a4a.evaluation.tasks.base import Task
from a4a.evaluation.tasks.folder import check_counts, read_prompt_lines
from a4a.utils.images import open_image

CAPTION = "{caption}"


class PreparedTask(Task):
    """Subjects that `a4a prepare` kept for validation or test, at the size that the data were prepared at.

    The first image of a subject is the reference, the others are held out. Where the data name no subjects, every photo
    is one, by its first crop. The subjects are the first by name: the same in every run.

    Args:
        path: the folder that `a4a prepare` made.
        split: test, or validation (to score while training).
        prompts: text file with one prompt on each line, in which `{subject}` stands for the subject's name and
            `{caption}` for the reference's caption. Images take the prompts in turn. By default the caption is the
            prompt, as the paper pairs images and prompts (A4A, sec. 4.1).
        generations: images of each subject.
        subjects: use the first so many subjects; all by default.
    """

    def __init__(
        self,
        path: Path,
        split: SplitName = "test",
        prompts: Path | None = None,
        generations: int = 4,
        subjects: int | None = None,
    ):
        check_counts(generations, subjects)
        folder = split_folder(Path(path), split)
        kept = _by_subject(read_kept_images(Path(path), split), subjects)
        self._files = {name: [folder / image.file_name for image in images] for name, images in kept.items()}
        lines = [CAPTION] if prompts is None else read_prompt_lines(Path(prompts))
        taken = [
            _filled(lines[i % len(lines)], images[0], Path(path))
            for images in kept.values()
            for i in range(generations)
        ]
        super().__init__(list(kept), [open_image(files[0]) for files in self._files.values()], taken)

    def held_out_photo(self, index: int) -> Image.Image:
        name = self.subjects[self.subject_of(index)]
        _, *held_out = self._files[name]
        if not held_out:
            raise InputError(
                f"The subject {name} has one photo, its reference; HeldOutPhoto needs a second one of every subject."
            )
        return open_image(held_out[index % self.generations % len(held_out)])


def _by_subject(images: list[KeptImage], count: int | None) -> dict[str, list[KeptImage]]:
    """The images of the first so many subjects, by name; one image of a photo whose subjects are not known."""
    found: dict[str, list[KeptImage]] = {}
    for image in images:
        if image.subject is not None or image.group not in found:
            found.setdefault(image.subject or image.group, []).append(image)
    return {name: found[name] for name in sorted(found)[:count]}


def _filled(line: str, reference: KeptImage, folder: Path) -> str:
    """A prompt with the subject's name and the reference's caption in it; InputError where they are not known."""
    for placeholder, value, what in (
        ("{subject}", reference.subject, "name of a subject"),
        (CAPTION, reference.text, "caption"),
    ):
        if placeholder in line and not value:
            raise InputError(
                f"{folder} has no {what} for {reference.id}, which the prompt {line!r} needs; "
                "give a file of prompts without it, or prepare the data again with it."
            )
        line = line.replace(placeholder, value or "")
    return line
