"""The course of an image prompt's scale over the steps of a call, and the count of these steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

from a4a.errors import InputError

EASINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "ease in": lambda x: x**2,
    "ease out": lambda x: 1 - (1 - x) ** 2,
    "ease in-out": lambda x: 3 * x**2 - 2 * x**3,
}
"""How a value moves from one number to another while x goes from 0 to 1; `ease in` starts slowly, `ease out` ends so."""


@dataclass(frozen=True)
class Course:
    """What an image prompt's scale is multiplied by at each step: 0 outside of `start` and `end`.

        Course(end=0.5)                               # the image prompt for the first half of the steps
        Course(first=1, last=0, easing="ease out")    # fades

    Raises InputError for numbers out of range, or an unknown easing.
    """

    start: float = 0.0
    """Fraction of the steps after which the image prompt begins to act, as diffusers' `control_guidance_start`."""
    end: float = 1.0
    """Fraction of the steps after which it acts no longer."""
    first: float = 1.0
    """Factor at the first step between `start` and `end`."""
    last: float = 1.0
    """Factor at the last one."""
    easing: str = "linear"
    """How the factor moves between them: linear, ease in, ease out, or ease in-out."""

    def __post_init__(self):
        for name in ("start", "end", "first", "last"):
            if not isinstance(number := getattr(self, name), Real) or not abs(float(number)) < float("inf"):
                raise InputError(f"A course's {name} is {number!r}; expected a number.")
        if not 0 <= self.start < self.end <= 1:
            raise InputError(
                f"A course runs from {self.start:g} to {self.end:g}; expected fractions of the steps, "
                f"0 <= start < end <= 1."
            )
        if self.easing not in EASINGS:
            raise InputError(f"A course's easing is {self.easing!r}; expected one of {', '.join(EASINGS)}.")

    @property
    def is_constant(self) -> bool:
        return (self.start, self.end, self.first, self.last) == (0, 1, 1, 1)

    def factor(self, step: int, steps: int) -> float:
        """The factor at one of so many steps, the first of which is 0; InputError where it acts at none of them."""
        acts = [i for i in range(steps) if i / steps >= self.start - 1e-9 and (i + 1) / steps <= self.end + 1e-9]
        if not acts:
            raise InputError(
                f"A course from {self.start:g} to {self.end:g} holds none of the {steps} steps; make it longer."
            )
        if step not in acts:
            return 0.0
        passed = (step - acts[0]) / max(len(acts) - 1, 1)
        return self.first + (self.last - self.first) * EASINGS[self.easing](passed)


@contextmanager
def counted_steps(pipe: Any, before_step: Callable[[int, int], None]) -> Iterator[None]:
    """Calls `before_step(step, steps)` before each step of a call of a diffusers pipeline in the `with` block.

    Steps are counted by the progress bar, which every pipeline of diffusers moves once a step, whatever its scheduler,
    its ways of guidance, and where in the schedule it begins. InputError where the bar was not used.
    """
    stock, counted = pipe.progress_bar, False

    def progress_bar(iterable: Any = None, total: int | None = None) -> Any:
        nonlocal counted
        counted, done = True, 0
        bar: Any = stock(iterable, total)
        update = bar.update

        def advance(steps: int = 1) -> Any:
            nonlocal done
            done += steps
            if done < bar.total:
                before_step(done, bar.total)
            return update(steps)

        bar.update = advance
        before_step(0, bar.total)
        return bar

    pipe.progress_bar = progress_bar
    try:
        yield
    finally:
        del pipe.progress_bar
    if not counted:
        raise InputError(
            f"{type(pipe).__name__} has no progress bar by which its steps could be counted, so a course of the scale "
            f"had no effect; leave the course out."
        )
