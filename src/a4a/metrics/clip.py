"""CLIP scores: generated against reference (the paper's CLIP-score), and generated against prompt."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (transformers annotates parts of configurations as dictionaries, and outputs as tuples)

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from a4a.adapters.encoders import CLIPImageEncoder, clip_processor
from a4a.errors import InputError, first_line
from a4a.metrics.metric import Gallery, Metric, Scores
from a4a.metrics.similarity import similarity
from a4a.places import model_place

LARGE = "openai/clip-vit-large-patch14"


@cache
def _load(model: str, device: str) -> tuple[Any, CLIPImageProcessorPil]:
    """A CLIPModel, or a CLIPVisionModelWithProjection, and its preprocessing."""
    name, folder = model_place(model, "CLIP model")
    try:
        config = AutoConfig.from_pretrained(name, **folder)
        if not isinstance(config, CLIPConfig):
            vision = CLIPImageEncoder.load(model)
            return vision.model.to(device), vision.processor  # pyright: ignore[reportArgumentType]
        # whole, although only half may be used: in some published configurations (laion's) the halves do not know their projection
        whole: Any = CLIPModel.from_pretrained(name, **folder, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise InputError(f"{model} could not be loaded as a CLIP model ({first_line(error)}); give a hub name or a folder of one.") from error
    return whole.to(device).eval().requires_grad_(False), clip_processor(name, folder, whole.config.vision_config.image_size)


@cache
def _tokenizer(model: str, words: int):
    name, folder = model_place(model, "CLIP model")
    if Path(name, "tokenizer").is_dir():
        folder = {"subfolder": "tokenizer"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **folder)
        found = len(tokenizer)
    except (OSError, ValueError):
        found = 0
    if found != words:  # where there are no files, transformers makes a tokenizer of two words and says nothing
        raise InputError(f"The tokenizer of {model} has {found} words where its text tower has {words}; add CLIP's tokenizer to the folder.")
    return tokenizer


class CLIP:
    """Projected CLIP vectors of pictures, and of texts where the model has both towers.

    Args:
        model: hub name, folder or zoo:NAME of a CLIP model; for pictures alone, of a vision tower with its projection.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, device: str | None = None):
        model_place(model, "CLIP model")
        self.model, self.device = model, device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.key = f"CLIP {model}"

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        model, processor = _load(self.model, self.device)
        pixels = processor([p.convert("RGB") for p in pictures], return_tensors="pt").pixel_values.to(model.device)
        found = model.get_image_features(pixel_values=pixels).pooler_output if isinstance(model, CLIPModel) else model(pixels).image_embeds
        return normalize(found.float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors [prompts, width]; what does not fit into the text tower is cut off. InputError for a model without one."""
        model, _ = _load(self.model, self.device)
        if not isinstance(model, CLIPModel):
            raise InputError(f"{self.model} is a vision tower alone; the text score needs a whole CLIP model, such as {LARGE}.")
        text = model.config.text_config
        tokens = _tokenizer(self.model, text.vocab_size)(
            list(prompts), padding=True, truncation=True, max_length=text.max_position_embeddings, return_tensors="pt"
        )
        found = model.get_text_features(tokens.input_ids.to(model.device), tokens.attention_mask.to(model.device)).pooler_output
        return normalize(found.float(), dim=-1)


class CLIPImageScore(Metric):
    """Cosine of CLIP's image vectors, generated against reference (A4A, sec. 4: "CLIP-score").

    Args:
        model: hub name, folder or zoo:NAME of a CLIP model or of its vision tower.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, device: str | None = None):
        self.encoder = CLIP(model, device)

    def __call__(self, gallery: Gallery) -> Scores:
        return {"clip_image": similarity(gallery, self.encoder)}


class CLIPTextScore(Metric):
    """Cosine of CLIP's vectors, generated picture against its prompt (Hessel et al. 2021, without their factor 2.5 and cut at 0).

    Args:
        model: hub name, folder or zoo:NAME of a whole CLIP model.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, device: str | None = None):
        self.encoder = CLIP(model, device)

    def __call__(self, gallery: Gallery) -> Scores:
        texts = torch.stack([self.encoder.encode_text(row).cpu() for row in gallery.prompts])
        return {"clip_text": (gallery.generated(self.encoder) * texts).sum(dim=-1).double().numpy()}
