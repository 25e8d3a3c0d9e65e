"""Where `a4a prepare` takes images from: one file per layout."""

from a4a.data.sources.base import ImageRecord, Source
from a4a.data.sources.celeba import CelebAMaskHQ
from a4a.data.sources.folders import ImageFolder, SubjectFolders
from a4a.data.sources.hub import HubDataset
from a4a.data.sources.openimages import OpenImages
from a4a.data.sources.webdataset import WebDataset

__all__ = [
    "CelebAMaskHQ",
    "HubDataset",
    "ImageFolder",
    "ImageRecord",
    "OpenImages",
    "Source",
    "SubjectFolders",
    "WebDataset",
]
