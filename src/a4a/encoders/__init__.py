"""Frozen image encoders: images to embeddings, for adapters and for metrics."""

from a4a.encoders.arcface import ArcFace
from a4a.encoders.base import ImageEncoder
from a4a.encoders.clip import CLIP, CLIPImageEncoder
from a4a.encoders.dino import DINO

__all__ = ["CLIP", "DINO", "ArcFace", "CLIPImageEncoder", "ImageEncoder"]
