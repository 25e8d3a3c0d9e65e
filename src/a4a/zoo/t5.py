"""Tokenizers of the zoo, trained on the world's own sentences, and its T5."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalOperand=false
# (diffusers annotates tuples of any length as tuples of one, and leaves names of configurations out)

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from a4a.training.base import Batch, Objective
from a4a.zoo.world import Views, caption


class Sentences:
    """Scene captions as token ids."""

    def __init__(self, tokenizer, count: int):
        lines = caption(Views.sample(count, 21), 21)
        encoded = tokenizer(lines, padding=True, return_tensors="pt")
        self.ids, self.mask = encoded.input_ids, encoded.attention_mask

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Tensor) -> Batch:
        return {"ids": self.ids[indices], "mask": self.mask[indices]}


class SpanCorruption(Objective):
    """T5's own objective: a span is replaced by a sentinel and the decoder writes it."""

    def __init__(self, model: T5ForConditionalGeneration, sentinel: int, rate: float):
        super().__init__()
        self.model, self.sentinel, self.rate = model, sentinel, rate

    def parameter_groups(self):
        return [{"name": "t5", "params": list(self.parameters()), "lr": self.rate}]

    def forward(self, batch: Batch) -> Tensor:
        ids, mask = batch["ids"], batch["mask"]
        lengths = mask.sum(1, keepdim=True) - 1  # the end mark is never hidden
        width = torch.randint(2, 5, lengths.shape, device=ids.device)
        start = (torch.rand(lengths.shape, device=ids.device) * (lengths - width).clamp(min=1)).long()
        place = torch.arange(ids.shape[1], device=ids.device)
        hidden = (place >= start) & (place < start + width)
        corrupted = torch.where(hidden, torch.full_like(ids, self.sentinel), ids)
        labels = torch.where(hidden, ids, torch.full_like(ids, -100))
        return self.model(input_ids=corrupted, attention_mask=mask, labels=labels).loss


def t5_model(vocabulary: int, width: int, layers: int) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=width // 4,
        num_heads=4,
        d_ff=2 * width,
        num_layers=layers,
        num_decoder_layers=1,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)
