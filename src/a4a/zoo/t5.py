"""The zoo's T5: the text encoder of pixart-mini, and a wider one for sd3-mini, trained on captions by span corruption."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel, T5ForConditionalGeneration

from a4a.training.base import Batch, Objective
from a4a.zoo.context import BuildContext, write_card
from a4a.zoo.tokenizers import t5_tokenizer, token_id
from a4a.zoo.world import Views, caption


def t5_model(vocabulary: int, width: int, layers: int) -> T5ForConditionalGeneration:
    """An untrained T5 whose decoder has one layer, since only the encoder is kept."""
    config: dict[str, Any] = {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": width // 4,
        "num_heads": 4,
        "d_ff": 2 * width,
        "num_layers": layers,
        "num_decoder_layers": 1,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return T5ForConditionalGeneration(T5Config(**config))


class Captions:
    """Captions of views as token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, count: int):
        encoded = tokenizer(caption(Views.sample(count, 21), 21), padding=True, return_tensors="pt")
        self.ids: Tensor = encoded["input_ids"]
        self.mask: Tensor = encoded["attention_mask"]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Tensor) -> Batch:
        """`ids` and `mask` [batch, tokens]."""
        return {"ids": self.ids[indices], "mask": self.mask[indices]}


class SpanCorruption(Objective):
    """T5's own objective (Raffel et al. 2020): hide two to four tokens behind a sentinel, and predict them."""

    def __init__(self, model: T5ForConditionalGeneration, sentinel: int, learning_rate: float):
        super().__init__()
        self.model, self.sentinel, self.learning_rate = model, sentinel, learning_rate

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "t5", "params": list(self.parameters()), "lr": self.learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        ids, mask = batch["ids"], batch["mask"]
        lengths = mask.sum(1, keepdim=True) - 1  # without the end token, which is never hidden
        width = torch.randint(2, 5, lengths.shape, device=ids.device)
        start = (torch.rand(lengths.shape, device=ids.device) * (lengths - width).clamp(min=1)).long()
        position = torch.arange(ids.shape[1], device=ids.device)
        hidden = (position >= start) & (position < start + width)
        corrupted = torch.where(hidden, torch.full_like(ids, self.sentinel), ids)
        labels = torch.where(hidden, ids, torch.full_like(ids, -100))  # -100: no loss there
        return self.model(input_ids=corrupted, attention_mask=mask, labels=labels).loss


def build_t5(
    context: BuildContext,
    name: str,
    target: Path,
    training: dict[str, Any],
    sentences: int,
    learning_rate: float,
    width: int,
    layers: int,
) -> None:
    """Stage: train T5 and keep its encoder and tokenizer."""
    tokenizer = t5_tokenizer()
    model = t5_model(len(tokenizer), width, layers)
    objective = SpanCorruption(model, token_id(tokenizer, "<extra_id_0>"), learning_rate)
    context.train(name, objective, Captions(tokenizer, sentences), training)
    encoder = T5EncoderModel(model.config)
    encoder.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith(("shared", "encoder"))})
    encoder.half().save_pretrained(target / "text_encoder")
    tokenizer.save_pretrained(target / "tokenizer")
    write_card(target, {})
