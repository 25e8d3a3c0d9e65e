"""Where `a4a prepare` takes images from: one file per layout on disk.

| source            | layout                                                        | subjects               |
|-------------------|---------------------------------------------------------------|------------------------|
| `ImageFolder`     | any folder; captions in metadata.jsonl or NAME.txt            | from metadata.jsonl    |
| `SubjectFolders`  | one folder per subject; captions as in `ImageFolder`          | the folder's name      |
| `HubDataset`      | a dataset on the Hugging Face hub, or any that `datasets` loads | a column             |
| `WebDataset`      | tar files; captions in .txt or .json members                  | from .json             |
| `CelebAMaskHQ`    | CelebAMask-HQ as unpacked                                     | identity_CelebA.txt    |
| `OpenImages`      | OpenImages' photos, with its tables of boxes and classes      | none; split by photo   |

To add a source, write one file here with a subclass of `Source`: it is found by its class name.
"""

import importlib
import pkgutil

from a4a.data.sources.base import ImageRecord, Source

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def _sources(kind: type[Source]) -> dict[str, type[Source]]:
    found = {child.__name__: child for child in kind.__subclasses__() if child.__module__.startswith(__name__)}
    for child in list(found.values()):
        found |= _sources(child)
    return found


globals().update(_sources(Source))
__all__ = ["ImageRecord", "Source", *_sources(Source)]  # pyright: ignore[reportUnsupportedDunderAll]
