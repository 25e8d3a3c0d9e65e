"""Condition encoders (eq. 4): one file for each source family."""

from a4a.adapters.projections.base import ImageProjection, make_projection, projection_families, recognise

__all__ = ["ImageProjection", "make_projection", "projection_families", "recognise"]
