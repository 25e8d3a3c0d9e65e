"""Pictures and captions, and their encodings, made once."""

from a4a.data.prepared import Prepared

__all__ = ["Prepared"]
