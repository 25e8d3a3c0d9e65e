"""Training data: images with captions, and their encodings."""

from a4a.data.base import TrainingData, TrainingImages
from a4a.data.image_folder import ImageFolderDataset
from a4a.data.prepared import Prepared

__all__ = ["ImageFolderDataset", "Prepared", "TrainingData", "TrainingImages"]
