"""DreamBench: the subjects and prompts of DreamBooth (Ruiz et al. 2023), 30 subjects with 25 prompts each."""

import re
from collections.abc import Sequence
from pathlib import Path

from a4a.errors import InputError
from a4a.evaluation.tasks.folder import FolderTask, read_prompt_file

LIVE_CLASSES = {"cat", "dog"}
"""Classes that have a list of prompts of their own; all other classes are objects."""


class DreamBenchTask(FolderTask):
    """DreamBench's `dataset` folder with its `prompts_and_classes.txt`, as they are published.

    Args:
        path: the folder `dataset`, with a folder for each subject.
        prompts: the file prompts_and_classes.txt: a table of subjects and their classes, then the prompts for objects
            and those for live subjects, in which the subject's class takes the place of its name.
        generations: images of each subject, which take its prompts in turn; 100 by default, as in the paper: 4 for
            each of 25 prompts.
        subjects: as of `FolderTask`.
    """

    default_generations = 100

    def read_prompts(self, file: Path, subjects: Sequence[str]) -> dict[str, list[str]]:
        text = read_prompt_file(file)
        classes = _subject_classes(text)
        object_text, _, live_text = text.partition("Live Subject Prompts")
        object_prompts, live_prompts = _prompt_list(object_text), _prompt_list(live_text)
        if not classes or not object_prompts or not live_prompts:
            raise InputError(
                f"{file} is not DreamBench's prompts_and_classes.txt: expected a table of subjects and classes and two "
                "lists of prompts; for a file with one prompt on each line use FolderTask."
            )
        if unknown := [subject for subject in subjects if subject not in classes]:
            raise InputError(f"{file} has no class of the subject {unknown[0]}; give DreamBench's own folders.")
        return {
            subject: [
                prompt.replace("{subject}", classes[subject])
                for prompt in (live_prompts if classes[subject] in LIVE_CLASSES else object_prompts)
            ]
            for subject in subjects
        }


def _subject_classes(text: str) -> dict[str, str]:
    """The table: lines of `subject,class` after the head `subject_name,class`."""
    rows = re.findall(r"^([\w ]+),([\w ]+)$", text, re.MULTILINE)
    return {subject: kind for subject, kind in rows if subject != "subject_name"}


def _prompt_list(text: str) -> list[str]:
    """A list in Python syntax: of 'a {0} {1} in the snow'.format(...), {0} is a token that only DreamBooth trains."""
    lines = re.findall(r"'([^'\n]*\{1\}[^'\n]*)'", text)
    return [" ".join(line.replace("{0}", "").replace("{1}", "{subject}").split()) for line in lines]
