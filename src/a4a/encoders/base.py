"""The one contract of image encoders, for adapters, training data and metrics alike."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from a4a.errors import InputError
from a4a.utils.fingerprint import model_fingerprint
from a4a.utils.modules import default_device

Output = Literal["pooled", "tokens"]
"""What an encoder gives of an image: one embedding [image_embed_dim], or tokens [tokens, image_embed_dim]."""

Images = Sequence[Image.Image] | Tensor
"""PIL images, or pixels [batch, 3, height, width] in [0, 1]."""


class ImageEncoder(ABC):
    """A frozen model that turns images into embeddings.

    Attributes:
        key: what it is and where it was loaded from; encoders with the same key give the same embeddings.
        path: what it was loaded from, as `from_pretrained` takes it; None where it was made in memory.
        output: `pooled` or `tokens`.
    """

    key: str
    path: str | None = None
    output: Output = "pooled"

    @property
    @abstractmethod
    def image_embed_dim(self) -> int:
        """Width of the pooled embedding, or of each token."""

    @abstractmethod
    def __call__(self, images: Images) -> Tensor:
        """Embeddings [batch, image_embed_dim], or [batch, tokens, image_embed_dim] where `output` is `tokens`.

        A row of NaN stands for an image in which there is nothing to encode, such as one without a face.
        """

    @abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the weights. An encoder that does not run in torch stays where it is."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the weights; encoded data record it, and refuse to be used with another encoder."""

    def unconditional(self) -> Tensor:
        """The embedding that stands for "no image" in classifier-free guidance, with a batch of one.

        Zeros for pooled embeddings (IP-Adapter, FaceID). Encoders of tokens encode a zero image (IP-Adapter Plus).
        """
        if self.output == "tokens":
            raise TypeError(f"{type(self).__name__} gives tokens but does not encode a zero image.")
        return torch.zeros(1, self.image_embed_dim)

    def unit_vectors(self, images: Images) -> Tensor:
        """Pooled embeddings of length one, float32 [batch, image_embed_dim]; their products are cosine similarities."""
        return normalize(self(images).float(), dim=-1)

    def with_output(self, output: Output) -> Self:
        """The same encoder, sharing its weights, that gives `output`; InputError where it cannot."""
        if output != self.output:
            raise InputError(f"{self.key} gives {self.output} embeddings, not {output}; give a CLIP vision model.")
        return self

    def check(self, image_embed_dim: int, what: str) -> None:
        """Raise InputError where an adapter, called `what`, takes embeddings of another width."""
        check_width(self.image_embed_dim, image_embed_dim, what)


class TorchImageEncoder(ImageEncoder):
    """An encoder that is a torch module with an image processor.

    An encoder made by name loads its weights when it is first used, and shares them with every other encoder of that
    name on the device. One made by `from_pretrained` or `from_modules` has weights of its own.

    Args:
        model: hub name, folder or zoo:NAME.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str, device: str | None = None):
        self.model = self.path = model
        self._device = torch.device(device) if device else default_device()
        self._dtype = torch.float32
        self._own: tuple[nn.Module, Any] | None = None

    @abstractmethod
    def _load(self) -> tuple[Any, Any]:
        """The module of `self.model`, on `self._device` in `self._dtype`, and its image processor; cached."""

    @property
    def module(self) -> Any:
        """The torch module; loaded if it was not yet."""
        return self._own[0] if self._own is not None else self._load()[0]

    @property
    def processor(self) -> Any:
        """The image processor of `transformers`."""
        return self._own[1] if self._own is not None else self._load()[1]

    def _adopt(self, module: nn.Module, processor: Any) -> Self:
        """Use this module and image processor from now on, frozen."""
        self._own = (module.eval().requires_grad_(False), processor)
        return self

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        return self.processor([image.convert("RGB") for image in images], return_tensors="pt").pixel_values

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        if self._own is not None:
            self._own[0].to(device=device, dtype=dtype)
        self._device = torch.device(device) if device is not None else self._device
        self._dtype = dtype or self._dtype
        return self

    def fingerprint(self) -> str:
        return model_fingerprint(self.module)


def check_width(given: int, image_embed_dim: int, what: str) -> None:
    """Raise InputError where an adapter, called `what`, takes another width than the embeddings have."""
    if image_embed_dim != given:
        raise InputError(
            f"{what} takes image embeddings of width {image_embed_dim} but this image encoder gives {given}; "
            f"give the encoder that the adapter was trained with (pooled embeddings of 1024: CLIP ViT-H/14, "
            f"of 1280: CLIP ViT-bigG/14; tokens of 1280: CLIP ViT-H/14)."
        )
