"""Text sides of models that read prompts with a language model: a tokenizer with chat marks, tiny encoders."""

import json
from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
)

from a4a.zoo.tokenizers import sentences

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = (
    "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of "
    "the objects and background:"
)
"""The pipeline of Qwen-Image leaves out the first 34 tokens of its template: each of these words must be one token."""


@cache
def tokenizer():
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[END, START, STOP],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator([*sentences(200), *[f"{SYSTEM}\nuser\nassistant\n"] * 500], trainer)
    learned = json.loads(model.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    found = Qwen2Tokenizer(vocab=learned["vocab"], merges=merges, pad_token=END, chat_template=CHAT)
    found.add_special_tokens({"additional_special_tokens": [START, STOP]})
    return found


def _sizes(width):
    return {
        "vocab_size": len(tokenizer()),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1200,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def qwen3(width, layers=2, model=Qwen3Model):
    return model(Qwen3Config(**{**_sizes(width), "num_hidden_layers": layers}, head_dim=width // 2))


def mistral3(width, layers):
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = {**_sizes(width), "model_type": "mistral", "num_hidden_layers": layers, "head_dim": width // 2}
    vision |= {"num_attention_heads": 2, "patch_size": 14, "image_size": 28}
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision))


def qwen25_vl(width):
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width}
    rope = {"rope_type": "default", "mrope_section": [width // 4 - 2, 1, 1], "rope_theta": 1e6}
    text = {**_sizes(width), "rope_parameters": rope}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
