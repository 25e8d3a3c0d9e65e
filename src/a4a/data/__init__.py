"""Training data: images with captions, and their encodings."""

from a4a.data.base import EncodedDataset, TrainingData, TrainingImages
from a4a.data.image_folder import ImageFolderDataset
from a4a.data.prepared import PreparedDataset

__all__ = ["EncodedDataset", "ImageFolderDataset", "PreparedDataset", "TrainingData", "TrainingImages"]
