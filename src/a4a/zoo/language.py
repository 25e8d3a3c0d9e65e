"""Tokenizers of the zoo, trained on the world's own sentences, and its T5."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalOperand=false
# (diffusers annotates tuples of any length as tuples of one, and leaves names of configurations out)

import json
import math
import re
from collections import Counter

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer, T5Config, T5ForConditionalGeneration, T5Tokenizer

from a4a.training.loop import Batch, Objective
from a4a.zoo.world import Subjects, Views, caption, describe

LENGTH = 32
"""Tokens of the CLIP text encoders; the longest description of the world fits but for a few words."""

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789,.!?'-"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""CLIP's own splitting into words."""


def sentences(count: int = 4000) -> list[str]:
    subjects, views = Subjects.sample(count, "clip"), Views.sample(count, 7)
    return describe(subjects, views, 7) + caption(views, 7)


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding with CLIP's end-of-word mark."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=list(ALPHABET),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    state = json.loads(tokenizer.to_str())["model"]
    vocab = state["vocab"]
    for letter in ALPHABET:  # so that any English word has tokens
        vocab.setdefault(letter + "</w>", len(vocab))
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def t5_tokenizer() -> T5Tokenizer:
    """A unigram model: the world's words by their frequency, and letters for all others."""
    pieces = Counter(piece for line in sentences() for piece in re.findall(r"\w+|[^\w\s]", line))
    total = sum(pieces.values())
    words = [((" " + piece).replace(" ", "\u2581") if piece.isalnum() else piece, math.log(n / total)) for piece, n in pieces.most_common()]
    known = {piece for piece, _ in words}
    letters = [(letter, -15.0) for letter in ("\u2581", *ALPHABET) if letter not in known]
    vocab: list = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *words, *letters]
    return T5Tokenizer(vocab=vocab, extra_ids=20, model_max_length=24)


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
