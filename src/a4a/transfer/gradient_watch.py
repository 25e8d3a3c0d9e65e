"""Look at the gradients of a training run: where they are not finite, and what they never reach."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class GradientWatch:
    """What the gradients of an adapter were over several steps, by the names of its trained parameters."""

    def __init__(self, adapter: nn.Module):
        self.trained = [name for name, p in adapter.named_parameters() if p.requires_grad]
        self.not_zero: set[str] = set()
        self.not_finite: set[str] = set()

    def see(self, name: str, gradient: Tensor) -> None:
        if not gradient.isfinite().all():
            self.not_finite.add(name)
        elif gradient.any():
            self.not_zero.add(name)

    def figures(self) -> dict[str, Any]:
        return {
            "trained_tensors": len(self.trained),
            "not_finite": [name for name in self.trained if name in self.not_finite],
            "always_zero": [name for name in self.trained if name not in self.not_zero | self.not_finite],
        }


@contextmanager
def watch_gradients(adapter: nn.Module) -> Iterator[GradientWatch]:
    """Looks at every gradient as soon as it is there; the trainer drops them after each step."""
    watch = GradientWatch(adapter)

    def look(name: str) -> Any:
        return lambda parameter: watch.see(name, parameter.grad)

    handles = [
        p.register_post_accumulate_grad_hook(look(name)) for name, p in adapter.named_parameters() if p.requires_grad
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
