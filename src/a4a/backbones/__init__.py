"""Denoisers that features are injected into: a family a file."""

from a4a.backbones.base import Backbone, Text, backbone_for, denoiser_of, families
from a4a.backbones.loading import load_pipeline
from a4a.backbones.sizes import SizeConditions

__all__ = ["Backbone", "SizeConditions", "Text", "backbone_for", "denoiser_of", "families", "load_pipeline"]
