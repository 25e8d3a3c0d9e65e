"""The zoo's CLIP and T5 tokenizers, trained on the sentences of the world."""

import json
import math
import re
from collections import Counter
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerBase, T5Tokenizer

from a4a.zoo.world import Subjects, Views, caption, describe

CLIP_TOKENS = 32
"""Tokens of the CLIP text towers; the longest description of the world fits but for a few words."""
T5_TOKENS = 24

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789,.!?'-"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""How CLIP's tokenizer splits a text into words."""
WORD_START = "\u2581"
"""How T5's tokenizer marks the beginning of a word."""


def sentences(count: int = 4000) -> list[str]:
    """Descriptions and captions of as many drawings."""
    subjects, views = Subjects.sample(count, "clip"), Views.sample(count, 7)
    return describe(subjects, views, 7) + caption(views, 7)


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding with CLIP's end-of-word mark."""
    tokenizer: Any = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=list(ALPHABET),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = model["vocab"]
    for letter in ALPHABET:  # so that any English word has tokens
        vocab.setdefault(letter + "</w>", len(vocab))
    merges: Any = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_TOKENS)


def t5_tokenizer() -> T5Tokenizer:
    """A unigram model: the world's words by their frequency, and single letters for all other words."""
    pieces = Counter(piece for line in sentences() for piece in re.findall(r"\w+|[^\w\s]", line))
    total = sum(pieces.values())
    words = [
        (WORD_START + piece if piece.isalnum() else piece, math.log(count / total))
        for piece, count in pieces.most_common()
    ]
    known = {word for word, _ in words}
    letters = [(letter, -15.0) for letter in (WORD_START, *ALPHABET) if letter not in known]
    vocab: list = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *words, *letters]
    return T5Tokenizer(vocab=vocab, extra_ids=20, model_max_length=T5_TOKENS)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one token of the vocabulary."""
    found: Any = tokenizer.convert_tokens_to_ids(token)
    return int(found)
