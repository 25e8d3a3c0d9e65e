"""Tokenizers as they were published: CLIP's and OPT's vocabulary and merges, T5's sentencepiece model."""

import io
from pathlib import Path

import sentencepiece

from a4a.zoo.tokenizers import sentences
from hub_layouts.files import write_json

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ("t h", "a t</w>", "o n</w>", "c at</w>", "th e</w>")
EXTRA_IDS = 100


def byte_letters() -> list[str]:
    """The letters that stand for bytes in the vocabulary of GPT-2, in its order: printable ones first."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(256 - len(kept))]


def clip_vocabulary() -> dict[str, int]:
    """Bytes, bytes at the end of a word, merges, special tokens: ends with the end of a text, as CLIP's."""
    letters = byte_letters()
    merged = [pair.replace(" ", "") for pair in MERGES]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *merged, START, END]
    return {token: i for i, token in enumerate(tokens)}


def clip_tokenizer(folder: Path, pad_token: str = END) -> int:
    """Four files and no tokenizer.json. Returns the size of the vocabulary."""
    vocabulary = clip_vocabulary()
    special = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    bos, eos, unk = ({"content": token, **special} for token in (START, END, END))
    write_json(
        folder / "special_tokens_map.json",
        {"bos_token": bos, "eos_token": eos, "pad_token": pad_token, "unk_token": unk},
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": {"__type": "AddedToken", **bos},
            "do_lower_case": True,
            "eos_token": {"__type": "AddedToken", **eos},
            "errors": "replace",
            "model_max_length": 77,
            "name_or_path": "openai/clip-vit-large-patch14",
            "pad_token": pad_token,
            "special_tokens_map_file": "./special_tokens_map.json",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": {"__type": "AddedToken", **unk},
        },
    )
    return len(vocabulary)


def t5_tokenizer(folder: Path) -> int:
    """`spiece.model`, with settings beside it, and no tokenizer.json. Returns the size of the vocabulary."""
    folder.mkdir(parents=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(200)),
        model_writer=model,
        vocab_size=80,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    extra = {f"<extra_id_{i}>": pieces + EXTRA_IDS - 1 - i for i in range(EXTRA_IDS)}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    named = {0: "<pad>", 1: "</s>", 2: "<unk>", **{i: token for token, i in reversed(extra.items())}}
    plain = {key: value for key, value in flags.items() if key != "special"}
    write_json(folder / "added_tokens.json", extra)
    write_json(
        folder / "special_tokens_map.json",
        {
            "additional_special_tokens": list(extra),
            **{f"{kind}_token": {"content": named[i], **plain} for i, kind in enumerate(("pad", "eos", "unk"))},
        },
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(i): {"content": token, **flags} for i, token in named.items()},
            "additional_special_tokens": list(extra),
            "clean_up_tokenization_spaces": True,
            "eos_token": "</s>",
            "extra_ids": EXTRA_IDS,
            "legacy": True,
            "model_max_length": 512,
            "pad_token": "<pad>",
            "sp_model_kwargs": {},
            "tokenizer_class": "T5Tokenizer",
            "unk_token": "<unk>",
        },
    )
    return pieces + EXTRA_IDS + 28
