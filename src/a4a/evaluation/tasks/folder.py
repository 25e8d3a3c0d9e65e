"""A benchmark of one's own: a folder of photos for each subject and a text file of prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image

from a4a.errors import InputError
from a4a.evaluation.tasks.base import Task
from a4a.utils.images import IMAGE_SUFFIXES, open_image


class FolderTask(Task):
    """Photos in one folder for each subject; the first by name is the reference, the others are held out.

    Args:
        path: folder with a folder for each subject.
        prompts: text file with one prompt on each line, in which `{subject}` stands for the folder's name. Images take
            the prompts in turn.
        generations: images of each subject; 4 by default.
        subjects: use the first so many subjects; all by default.
    """

    default_generations: ClassVar[int] = 4

    def __init__(
        self,
        path: Path,
        prompts: Path,
        generations: int | None = None,
        subjects: int | None = None,
    ):
        if generations is None:
            generations = self.default_generations
        check_counts(generations, subjects)
        folders = _subject_folders(Path(path))[:subjects]
        names = [folder.name for folder in folders]
        self.files = [_photos(folder) for folder in folders]
        templates = self.read_prompts(Path(prompts), names)
        taken: list[str] = []
        for name in names:
            lines = templates[name]
            taken += [lines[i % len(lines)] for i in range(len(taken), len(taken) + generations)]
        super().__init__(names, [open_image(files[0]) for files in self.files], taken)

    def read_prompts(self, file: Path, subjects: Sequence[str]) -> dict[str, list[str]]:
        """The prompts of each subject; a benchmark with a prompt file of its own format overrides this.

        Raises InputError for a subject without prompts.
        """
        lines = read_prompt_lines(file)
        return {subject: [line.replace("{subject}", subject) for line in lines] for subject in subjects}

    def held_out_photo(self, index: int) -> Image.Image:
        subject = self.subject_of(index)
        _, *held_out = self.files[subject]
        if not held_out:
            raise InputError(
                f"The subject {self.subjects[subject]} has one photo, its reference; HeldOutPhoto needs a second one "
                "of every subject."
            )
        return open_image(held_out[index % self.generations % len(held_out)])


def read_prompt_lines(file: Path) -> list[str]:
    """The prompts of a text file, one on each line; InputError where there are none."""
    lines = [line.strip() for line in read_prompt_file(file).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"The prompts file {file} is empty; give at least one prompt, each on its own line.")
    return lines


def read_prompt_file(file: Path) -> str:
    if not file.is_file():
        raise InputError(f"There is no prompts file {file}; give a text file with one prompt on each line.")
    return file.read_text()


def check_counts(generations: int, subjects: int | None) -> None:
    """InputError where there would be nothing to generate."""
    if generations < 1 or (subjects is not None and subjects < 1):
        count = "all" if subjects is None else subjects
        raise InputError(f"The task has generations {generations} and subjects {count}; give at least 1 of each.")


def _subject_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"There is no folder of subjects {root}; give one with a folder of photos for each subject.")
    folders = sorted(f for f in root.iterdir() if f.is_dir())
    if not folders:
        raise InputError(f"The folder {root} holds no folders; give one with a folder of photos for each subject.")
    return folders


def _photos(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"The subject folder {folder} holds no images; put at least one there or remove it.")
    return files
