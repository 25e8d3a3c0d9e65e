"""The paper: coupling space projection, upgraded space mapping, alignment, and the three in order."""

from a4a.method.all_for_all import AllForAll

__all__ = ["AllForAll"]
