"""CLIP and T5 tokenizers, trained on the captions of the world."""

import json
import math
import re
from collections import Counter

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

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
    words = [
        ((" " + piece).replace(" ", "\u2581") if piece.isalnum() else piece, math.log(n / total))
        for piece, n in pieces.most_common()
    ]
    known = {piece for piece, _ in words}
    letters = [(letter, -15.0) for letter in ("\u2581", *ALPHABET) if letter not in known]
    vocab: list = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *words, *letters]
    return T5Tokenizer(vocab=vocab, extra_ids=20, model_max_length=24)
