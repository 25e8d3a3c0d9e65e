"""Image encoders: pictures to the embeddings that adapters take."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from a4a.errors import InputError


class CLIPImageEncoder:
    """A frozen CLIP vision tower and its preprocessing; pictures to projected embeddings [batch, embed]."""

    def __init__(self, model: CLIPVisionModelWithProjection, processor: CLIPImageProcessorPil):
        self.model = model.eval().requires_grad_(False)
        self.processor = processor

    @classmethod
    def load(cls, path: str | Path, dtype: torch.dtype | None = None) -> "CLIPImageEncoder":
        """From a folder or a hub name (`h94/IP-Adapter` keeps ViT-H under `models/image_encoder`: `owner/repo/folder`)."""
        kwargs = {}
        name = str(path)
        if not Path(path).is_dir():
            owner, _, rest = name.partition("/")
            repo, _, folder = rest.partition("/")
            if not repo or name.startswith((".", "/", "~")):
                raise InputError(f"There is no image encoder folder {path}; give a folder with a CLIP vision model, or owner/repo/folder on the hub.")
            name, kwargs = f"{owner}/{repo}", {"subfolder": folder} if folder else {}
        try:
            model = CLIPVisionModelWithProjection.from_pretrained(name, **kwargs, dtype=dtype)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} could not be loaded as a CLIP vision model ({str(error).strip().splitlines()[0]}).") from error
        try:
            processor = CLIPImageProcessorPil.from_pretrained(name, **kwargs)
        except OSError:  # published adapters ship the model without a processor: CLIP's own at the model's size
            side = model.config.image_size
            processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        return cls(model, processor)

    @property
    def embed(self) -> int:
        return self.model.config.projection_dim

    @torch.no_grad()
    def __call__(self, pictures: Tensor | Sequence[Image.Image]) -> Tensor:
        """Pictures as [batch, 3, height, width] in [0, 1], or as PIL images."""
        if isinstance(pictures, Tensor):
            pictures = [Image.fromarray(a) for a in (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()]
        pixels = self.processor([p.convert("RGB") for p in pictures], return_tensors="pt").pixel_values
        return self.model(pixels.to(self.model.device, self.model.dtype)).image_embeds

    def check(self, embed: int, what: str) -> None:
        """Raises InputError where an adapter expects embeddings of another width."""
        if embed != self.embed:
            raise InputError(
                f"{what} takes image embeddings of width {embed} but this image encoder gives {self.embed}; "
                f"give the encoder that the adapter was trained with (1024: CLIP ViT-H/14, 1280: CLIP ViT-bigG/14)."
            )
