"""What every method is asked to draw: references and prompts, the same for all."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from a4a.data.image_folder import SUFFIXES
from a4a.data.manifest import subjects_in_split
from a4a.errors import InputError
from a4a.evaluation.tasks.base import Task
from a4a.utils.images import open_image


class FolderTask(Task):
    """Photos in one folder a subject; the first by name is the reference. DreamBench works as it is.

    Args:
        path: folder with a folder for each subject.
        prompts: text file with a prompt a line, `{subject}` standing for the folder's name, or DreamBench's own
            prompts_and_classes.txt, with its list for objects and its list for cats and dogs. Pictures take the prompts in turn.
        generations: pictures of each subject.
        subjects: the first so many, all by default.
        prepared: a folder that `a4a prepare` made of these photos; only subjects of its test split are drawn.
    """

    def __init__(
        self, path: Path, prompts: Path, generations: int = 4, subjects: int | None = None, prepared: Path | None = None
    ):
        root = Path(path)
        if generations < 1 or (subjects is not None and subjects < 1):
            raise InputError(
                f"The task asks for {generations} pictures of {'all' if subjects is None else subjects} subjects; give at least 1 of each."
            )
        if not root.is_dir():
            raise InputError(
                f"There is no folder of subjects {root}; give one with a folder of pictures for each subject."
            )
        folders = sorted(f for f in root.iterdir() if f.is_dir())
        if not folders:
            raise InputError(
                f"The folder {root} holds no folders; give one with a folder of pictures for each subject."
            )
        if prepared is not None:
            kept = subjects_in_split(Path(prepared), "test")
            folders = [f for f in folders if f.name in kept]
            if not folders:
                raise InputError(
                    f"No folder in {root} is a subject of the test split of {prepared}; give the photos that it was made of."
                )
        folders = folders[:subjects]
        self.files = [sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) for folder in folders]
        for folder, files in zip(folders, self.files, strict=True):
            if not files:
                raise InputError(f"The subject folder {folder} holds no pictures; put at least one there or remove it.")
        names = [folder.name for folder in folders]
        said = []
        for lines, word in _prompts(Path(prompts), names):
            said += [
                lines[i % len(lines)].replace("{subject}", word) for i in range(len(said), len(said) + generations)
            ]
        super().__init__(names, [open_image(files[0]) for files in self.files], said)

    def photos(self, picture: int) -> Image.Image:
        files = self.files[self.subject(picture)]
        if len(files) < 2:
            raise InputError(
                f"The subject {self.subjects[self.subject(picture)]} has one picture; the ceiling needs a second one of every subject."
            )
        return open_image(files[1 + picture % self.generations % (len(files) - 1)])


LIVE = {"cat", "dog"}
"""DreamBench's classes that have prompts of their own."""


def _prompts(file: Path, subjects: Sequence[str]) -> list[tuple[list[str], str]]:
    """For each subject its prompts and what it is called in them."""
    if not file.is_file():
        raise InputError(f"There is no prompts file {file}; give a text file with a prompt a line.")
    text = file.read_text()
    if "subject_name,class" in text:  # DreamBench: a table, then a list in Python for each kind of subject
        classes = {
            name: kind
            for name, kind in re.findall(r"^([\w ]+),([\w ]+)$", text, re.MULTILINE)
            if name != "subject_name"
        }
        objects, _, live = text.partition("Live Subject Prompts")
        lists = [_quoted(part) for part in (objects, live)]
        found = [(lists[classes.get(name) in LIVE] or lists[0], classes.get(name, name)) for name in subjects]
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        found = [(lines, name) for name in subjects]
    if not all(lines for lines, _ in found):
        raise InputError(f"The prompts file {file} is empty; give at least one prompt, a line each.")
    return found


def _quoted(text: str) -> list[str]:
    lines = re.findall(r"'([^'\n]*\{1\}[^'\n]*)'", text)
    return [" ".join(line.replace("{0}", "").replace("{1}", "{subject}").split()) for line in lines]
