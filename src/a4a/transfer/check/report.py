"""What a check finds: printed as it comes, and kept in check.json."""

import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from a4a.errors import CheckFailed, InputError
from a4a.utils.files import write_json
from a4a.utils.machine import machine

Result = TypeVar("Result")

REPORT = "check.json"


@dataclass(frozen=True)
class Finding:
    """One thing that a step looked at."""

    what: str
    found: str
    expected: str
    passed: bool = True
    look_at: str = ""
    """Where the cause may be, if it did not pass."""
    values: dict[str, Any] = field(default_factory=dict)
    """The figures behind `found`."""
    images: str | None = None
    """A file or folder of images for a person to look at."""

    def lines(self) -> str:
        """The finding as it is printed."""
        lines = [f"  {'ok ' if self.passed else 'OFF'} {self.what}: {self.found}", f"      expected: {self.expected}"]
        return "\n".join(lines + ([f"      images: {self.images}"] if self.images else []))


class Report:
    """The steps of a check that are done.

    Args:
        folder: for check.json, which is written anew after every finding.
        steps: how many there will be.
    """

    def __init__(self, folder: Path, steps: int):
        self.folder, self.count = folder, steps
        self.content: dict[str, Any] = {"passed": False, "machine": machine(), "steps": []}
        self.save()

    def save(self) -> None:
        write_json(self.folder / REPORT, self.content, indent=1)

    def step(self, title: str, findings: Generator[Finding, None, Result]) -> Result:
        """Runs a step and returns what it returns; raises CheckFailed at its first finding that is off."""
        number, began = len(self.content["steps"]) + 1, time.perf_counter()
        entry: dict[str, Any] = {"step": number, "title": title, "findings": []}
        self.content["steps"].append(entry)
        print(f"{number} of {self.count}: {title}", flush=True)
        while True:
            try:
                finding = next(findings)
            except StopIteration as end:
                return end.value
            except InputError as error:
                entry["error"] = str(error)
                self.save()
                raise
            print(finding.lines(), flush=True)
            entry["findings"].append(asdict(replace(finding, look_at="") if finding.passed else finding))
            entry["seconds"] = round(time.perf_counter() - began, 1)
            self.save()
            if not finding.passed:
                raise CheckFailed(
                    f"Step {number} of {self.count}, {finding.what}: found {finding.found}; "
                    f"expected {finding.expected}. Look at {finding.look_at}."
                )

    def finish(self) -> None:
        """All steps passed."""
        self.content["passed"] = True
        self.save()
