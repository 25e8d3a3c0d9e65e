"""Faces to identity vectors: InsightFace's detection, alignment and ArcFace embedding."""

import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from a4a.errors import InputError, first_line


@cache
def _load(folder: Path, det_size: int | None, det_threshold: float):
    from insightface.app import FaceAnalysis

    try:
        faces = FaceAnalysis(
            name=str(folder), allowed_modules=["detection", "recognition"]
        )  # on the GPU where ONNX Runtime has one
    except AssertionError:  # insightface's word for a folder without a detector
        models: Any = {"recognition": None}
    except Exception as error:  # what ONNX Runtime raises has no class of its own
        raise InputError(
            f"{folder} has an ONNX file that could not be loaded ({first_line(error)}); unpack InsightFace's antelopev2 again."
        ) from error
    else:
        faces.prepare(ctx_id=0, det_thresh=det_threshold, det_size=det_size and (det_size, det_size))  # pyright: ignore[reportArgumentType]
        models = faces.models
    if missing := {"detection", "recognition"} - set(models):
        raise InputError(
            f"{folder} has no ONNX model for face {' and '.join(sorted(missing))}; unpack all of InsightFace's antelopev2 there."
        )
    if not models["detection"].use_kps:
        raise InputError(
            f"The face detector in {folder} gives no landmarks to align faces by; unpack InsightFace's antelopev2 there."
        )
    return models["detection"], models["recognition"]


class ArcFace:
    """Identity of the largest face of a picture; no vector where no face is found.

    The detector gets a picture scaled, up or down, to fit into a square with black beside or below it.

    Args:
        folder: InsightFace's antelopev2, unpacked: its ONNX files, or a folder of that name with them. For non-commercial research only.
        det_size: side of the square in pixels; without one InsightFace's own two, 128 (for faces that fill the picture) and 640.
        det_threshold: what the detector must be sure by.
    """

    def __init__(self, folder: Path, det_size: int | None = None, det_threshold: float = 0.5):
        if missing := [name for name in ("insightface", "onnxruntime") if find_spec(name) is None]:
            raise InputError(
                f"The identity score needs {' and '.join(missing)}, not installed here; pip install 'a4a[eval]'."
            )
        if det_size is not None and (det_size <= 0 or det_size % 32):
            raise InputError(f"det_size is {det_size}; expected a multiple of 32, such as 640.")
        folder = Path(folder).expanduser()
        nested = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        found = next((p for p in (folder, *nested) if any(p.glob("*.onnx"))), None)
        if found is None:
            raise InputError(
                f"{folder} holds no ONNX files; give the folder into which InsightFace's antelopev2 was unpacked."
            )
        self.folder, self.det_size, self.det_threshold = found, det_size, det_threshold
        self.key = f"ArcFace {found} {det_size} {det_threshold}"

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        return normalize(torch.stack([torch.from_numpy(self._identity(p)).float() for p in pictures]), dim=-1)

    def _identity(self, picture: Image.Image) -> np.ndarray:
        from insightface.app.common import Face

        detector, recogniser = _load(self.folder, self.det_size, self.det_threshold)
        image = np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])  # blue first, as OpenCV has it
        boxes, points = detector.detect(image)
        if not len(boxes):
            return np.full(recogniser.output_shape[-1], np.nan)
        largest = int(np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1).argmax())
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of insightface's to scikit-image
            return recogniser.get(image, Face(bbox=boxes[largest, :4], kps=points[largest]))
