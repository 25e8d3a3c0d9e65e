"""Frozen image encoders: images to embeddings, for adapters, training data and metrics."""

from a4a.encoders.arcface import ArcFace
from a4a.encoders.base import ImageEncoder
from a4a.encoders.clip import CLIPImageEncoder, CLIPTextEncoder
from a4a.encoders.dino import DINO

__all__ = ["DINO", "ArcFace", "CLIPImageEncoder", "CLIPTextEncoder", "ImageEncoder"]
