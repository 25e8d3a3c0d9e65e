"""ArcFace: the identity of a face, by InsightFace's detection, alignment and recognition."""

import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from a4a.encoders.base import ImageEncoder, Images
from a4a.errors import InputError, first_line
from a4a.utils.fingerprint import file_fingerprint
from a4a.utils.images import to_pil


@cache
def _load(folder: Path, det_size: int | None, det_threshold: float):
    """Detector and recognition model of InsightFace, loaded once for each setting."""
    from insightface.app import FaceAnalysis

    try:
        faces = FaceAnalysis(
            name=str(folder), allowed_modules=["detection", "recognition"]
        )  # on the GPU where ONNX Runtime has one
    except AssertionError:  # InsightFace raises it for a folder without a detector
        models: Any = {"recognition": None}
    except Exception as error:  # what ONNX Runtime raises has no class of its own
        raise InputError(
            f"{folder} has an ONNX file that could not be loaded ({first_line(error)}); "
            f"unpack InsightFace's antelopev2 again."
        ) from error
    else:
        square: Any = det_size and (det_size, det_size)
        faces.prepare(ctx_id=0, det_thresh=det_threshold, det_size=square)
        models = faces.models
    if missing := {"detection", "recognition"} - set(models):
        raise InputError(
            f"{folder} has no ONNX model for face {' and '.join(sorted(missing))}; "
            f"unpack all of InsightFace's antelopev2 there."
        )
    if not models["detection"].use_kps:
        raise InputError(
            f"The face detector in {folder} gives no landmarks to align faces by; "
            f"unpack InsightFace's antelopev2 there."
        )
    return models["detection"], models["recognition"]


class ArcFace(ImageEncoder):
    """Identity of the largest face of an image, of length one; a row of NaN where no face is found.

    The detector sees the image scaled to fit into a square, padded with black.

    Args:
        folder: InsightFace's antelopev2, unpacked: its ONNX files, or a folder with them. Non-commercial research only.
        det_size: side of the square in pixels; by default InsightFace's own two, 128 (large faces) and 640.
        det_threshold: minimum detection confidence.
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

    @property
    def image_embed_dim(self) -> int:
        _, recogniser = _load(self.folder, self.det_size, self.det_threshold)
        return recogniser.output_shape[-1]

    def __call__(self, images: Images) -> Tensor:
        pil = to_pil(images) if isinstance(images, Tensor) else images
        return normalize(torch.stack([torch.from_numpy(self._identity(image)).float() for image in pil]), dim=-1)

    def unit_vectors(self, images: Images) -> Tensor:
        return self(images)  # normalised already

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return self  # ONNX Runtime chose its device when the model was loaded

    def fingerprint(self) -> str:
        return file_fingerprint(self.folder)

    def _identity(self, image: Image.Image) -> np.ndarray:
        from insightface.app.common import Face

        detector, recogniser = _load(self.folder, self.det_size, self.det_threshold)
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])  # BGR, as OpenCV orders channels
        boxes, landmarks = detector.detect(pixels)
        if not len(boxes):
            return np.full(recogniser.output_shape[-1], np.nan)
        largest = int(np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1).argmax())
        with warnings.catch_warnings(
            action="ignore", category=FutureWarning
        ):  # of scikit-image, which InsightFace calls in a deprecated way
            return recogniser.get(pixels, Face(bbox=boxes[largest, :4], kps=landmarks[largest]))
