"""The zoo's CLIPs: text encoders of sd15-mini and sdxl-mini, and the adapters' image encoder."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

from a4a.training.base import Batch, Objective
from a4a.zoo.context import BuildContext, write_card
from a4a.zoo.convnets import ConvNet, strided_layers
from a4a.zoo.dataset import CaptionedDrawings, Drawings, clip_tokens
from a4a.zoo.tokenizers import CLIP_TOKENS, clip_tokenizer, token_id
from a4a.zoo.world import SIZE, describe

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TEACHER_WIDTHS = (24, 48, 96)


def clip_model(
    vocabulary: int, end: int, patch: int, width: int, layers: int, text_width: int, text_layers: int, projection: int
) -> CLIPModel:
    """An untrained CLIP.

    Args:
        vocabulary: tokens of the tokenizer.
        end: id of its end token; the start token comes right before it.
        patch: side of the vision tower's patches in pixels.
        width: of the vision tower.
        layers: of the vision tower.
        text_width: of the text tower.
        text_layers: of the text tower.
        projection: width of the embeddings.
    """
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": patch,
        "projection_dim": projection,
        "hidden_act": "gelu",
    }
    text = {
        "vocab_size": vocabulary,
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": CLIP_TOKENS,
        "projection_dim": projection,
        "hidden_act": "gelu",
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    config: dict[str, Any] = {"text_config": text, "vision_config": vision, "projection_dim": projection}
    return CLIPModel(CLIPConfig(**config))


def clip_pixels(images: Tensor) -> Tensor:
    """What CLIP's image processor makes of images in [0, 1] that have the right size already."""
    mean, std = images.new_tensor(CLIP_MEAN), images.new_tensor(CLIP_STD)
    return (images - mean[:, None, None]) / std[:, None, None]


class _Teacher(nn.Module):
    """A convolutional vision tower: images to one vector for each patch of 8 pixels, and to one embedding."""

    def __init__(self, projection: int):
        super().__init__()
        self.patches = nn.Sequential(*strided_layers(3, TEACHER_WIDTHS))
        self.image = ConvNet(TEACHER_WIDTHS[-1], (128, 192), projection)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, 3, 64, 64] to [batch, 64, width] and [batch, projection]."""
        patches = self.patches(pixels)
        return patches.flatten(2).transpose(1, 2), self.image(patches)


class ContrastAndCaption(Objective):
    """CLIP's contrastive loss, and CoCa's captioning loss (Yu et al. 2022, eq. 4).

    Scenes and colours are enough to tell the images of a small batch apart, so that with the contrastive loss alone the
    vision tower never learns to see ears. The captioning loss is that of each next word of the text, given the words
    before it and the image's embedding, which therefore has to hold every trait that texts speak of. The words before
    come from CLIP's text tower, which is causal; the layers that join the two are thrown away after training.

    With `teacher`, a convolutional tower learns the same beside the vision transformer, and the transformer also
    imitates its patches and its embedding: shapes need edges, which a small vision transformer by itself learns late.
    """

    def __init__(self, clip: CLIPModel, learning_rate: float, teacher: bool):
        super().__init__()
        self.clip, self.learning_rate = clip, learning_rate
        config: Any = clip.config
        width, projection = config.text_config.hidden_size, config.projection_dim
        self.next_word = nn.Sequential(
            nn.Linear(width + projection, 256), nn.GELU(), nn.Linear(256, config.text_config.vocab_size)
        )
        self.teacher = _Teacher(projection) if teacher else None
        self.imitation = nn.Linear(config.vision_config.hidden_size, TEACHER_WIDTHS[-1]) if teacher else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "clip", "params": list(self.parameters()), "lr": self.learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        """`images` [batch, 3, 64, 64] as bytes, `ids` and `mask` [batch, texts, tokens], of which one text is used."""
        text = int(torch.randint(batch["ids"].shape[1], ()))
        ids, mask = batch["ids"][:, text], batch["mask"][:, text].bool()
        pixels = clip_pixels(batch["images"].float() / 255)
        vision: Any = self.clip.vision_model(pixel_values=pixels)
        text_states: Any = self.clip.text_model(input_ids=ids)
        images = F.normalize(self.clip.visual_projection(vision.pooler_output), dim=-1)
        texts = F.normalize(self.clip.text_projection(text_states.pooler_output), dim=-1)
        before = text_states.last_hidden_state[:, :-1]
        loss = self._text_losses(images, texts, before, ids, mask)
        if self.teacher is None or self.imitation is None:
            return loss
        patches, taught = self.teacher(pixels)
        taught = F.normalize(taught, dim=-1)
        patches = F.layer_norm(patches, patches.shape[-1:]).detach()
        imitation = (
            (self.imitation(vision.last_hidden_state[:, 1:]) - patches).square().mean()
            + 1
            - (images * taught.detach()).sum(-1).mean()
        )
        return loss + self._text_losses(taught, texts, before, ids, mask) + imitation

    def _text_losses(self, images: Tensor, texts: Tensor, before: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Contrastive and captioning loss.

        Args:
            images: unit embeddings [batch, projection].
            texts: unit embeddings [batch, projection].
            before: text states of all tokens but the last, [batch, tokens - 1, width].
            ids: [batch, tokens].
            mask: [batch, tokens], True for tokens that are no padding.
        """
        logits = self.clip.logit_scale.exp() * images @ texts.T
        matches, predicted = torch.arange(len(ids), device=ids.device), mask[:, 1:]
        scale = images.shape[-1] ** 0.5  # unit vectors have small numbers
        image = images[:, None].expand(-1, predicted.shape[1], -1)[predicted] * scale
        words = self.next_word(torch.cat([before[predicted], image], dim=-1))
        contrast = (F.cross_entropy(logits, matches) + F.cross_entropy(logits.T, matches)) / 2
        return contrast + F.cross_entropy(words, ids[:, 1:][predicted])


def build_clip(
    context: BuildContext,
    name: str,
    target: Path,
    training: dict[str, Any],
    data: dict[str, Any],
    teacher: bool,
    learning_rate: float,
    shape: dict[str, int],
    keep: list[str],
) -> None:
    """Stage: train a CLIP and `keep` of it what others need; its figure is how often it finds the description of a drawing among 256.

    The text tower of clip-small conditions sd15-mini and is the first text encoder of sdxl-mini, that of clip-medium is
    its second; the vision tower of clip-large is the adapters' image encoder.
    """
    tokenizer = clip_tokenizer()
    model = clip_model(len(tokenizer), token_id(tokenizer, str(tokenizer.eos_token)), **shape)
    objective = ContrastAndCaption(model, learning_rate, teacher)
    context.train(name, objective, CaptionedDrawings(tokenizer, **data), training)
    model.eval()
    found = _descriptions_found(model, tokenizer, 256)
    _save_parts(model.half(), target, keep)
    tokenizer.save_pretrained(target / "tokenizer")
    write_card(target, {"caption_of_256_found": found, "images": 256})


@torch.no_grad()
def _descriptions_found(model: CLIPModel, tokenizer: Any, count: int) -> float:
    """The share of validation drawings whose own description is the nearest of all."""
    drawings = Drawings("validation", count)
    images = drawings.batch(torch.arange(count))["images"][:, 0]
    ids, _ = clip_tokens(tokenizer, describe(drawings.subjects, drawings.views[0], 3))
    output: Any = model(input_ids=ids, pixel_values=clip_pixels(images))
    found = output.logits_per_image.argmax(1) == torch.arange(count)
    return float(found.float().mean())


TOWERS: dict[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_with_projection": CLIPTextModelWithProjection,
    "image_encoder": CLIPVisionModelWithProjection,
}


def _save_parts(model: CLIPModel, folder: Path, keep: list[str]) -> None:
    """Save a CLIP whole (`clip` in `keep`), and towers in folders of their own, as pipelines and adapters load them."""
    with TemporaryDirectory() as whole:
        model.save_pretrained(whole)
        for name in keep:
            if name == "clip":
                model.save_pretrained(folder)
            else:
                TOWERS[name].from_pretrained(whole).save_pretrained(folder / name)
    if "image_encoder" in keep:
        size: dict[str, Any] = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
        CLIPImageProcessorPil(**size).save_pretrained(folder / "image_encoder")
