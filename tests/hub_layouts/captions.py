"""Salesforce/blip2-opt-2.7b: weights in two files, OPT's tokenizer, an image processor of its former class name."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import Blip2Config, Blip2ForConditionalGeneration

from hub_layouts.files import write_json, write_shards
from hub_layouts.stable_diffusion import CLIP_MEAN, CLIP_STD
from hub_layouts.vocabularies import byte_letters

BLIP2 = "Salesforce/blip2-opt-2.7b"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
IMAGE = "<image>"
QUERIES, SIDE = 4, 28


def blip2(folder: Path) -> None:
    torch.manual_seed(0)
    vocabulary = _tokenizer(folder)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = {"ffn_dim": 16, "max_position_embeddings": 64, "word_embed_proj_dim": 16, "vocab_size": vocabulary + 3}
    vision = {"intermediate_size": 16, "image_size": SIDE, "patch_size": 14}
    former = {"intermediate_size": 16, "encoder_hidden_size": 16}
    newline = vocabulary - 1 - len(SPECIAL)
    config = {
        "architectures": ["Blip2ForConditionalGeneration"],
        "image_text_hidden_size": 256,
        "image_token_index": vocabulary - 1,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "model_type": "blip-2",
        "num_query_tokens": QUERIES,
        "qformer_config": {"classifier_dropout": None, "model_type": "blip_2_qformer", **former, **sizes},
        "text_config": {
            "_name_or_path": "facebook/opt-2.7b",
            "activation_dropout": 0.0,
            "architectures": ["OPTForCausalLM"],
            "eos_token_id": newline,
            "model_type": "opt",
            "prefix": "</s>",
            "torch_dtype": "float16",
            **text,
            **sizes,
        },
        "torch_dtype": "float32",
        "transformers_version": "4.47.0.dev0",
        "use_decoder_only_language_model": True,
        "vision_config": {
            "dropout": 0.0,
            "initializer_factor": 1.0,
            "model_type": "blip_2_vision_model",
            "num_channels": 3,
            "projection_dim": 512,
            **vision,
            **sizes,
        },
    }
    write_json(folder / "config.json", config)
    generation = {"bos_token_id": 2, "eos_token_id": newline, "pad_token_id": 1}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **generation})
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": CLIP_MEAN,
            "image_processor_type": "BlipImageProcessor",
            "image_std": CLIP_STD,
            "processor_class": "Blip2Processor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": SIDE, "width": SIDE},
        },
    )
    write_json(folder / "processor_config.json", {"num_query_tokens": QUERIES, "processor_class": "Blip2Processor"})
    write_shards(folder, Blip2ForConditionalGeneration(Blip2Config(**config)).state_dict())


def _tokenizer(folder: Path) -> int:
    """OPT's: bytes, no merges here, `</s>` before every text. Returns the size of the vocabulary."""
    tokens = [*SPECIAL, *byte_letters(), IMAGE]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    write_json(folder / "vocab.json", {token: i for token, i in vocabulary.items() if token != IMAGE})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    write_json(folder / "added_tokens.json", {IMAGE: vocabulary[IMAGE]})
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    named = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
    write_json(folder / "special_tokens_map.json", {kind: {"content": t, **flags} for kind, t in named.items()})
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(vocabulary[t]): {"content": t, **flags, "special": True} for t in ("<pad>", "</s>", IMAGE)
            },
            "clean_up_tokenization_spaces": True,
            "errors": "replace",
            "model_max_length": 1000000000000000019884624838656,
            "processor_class": "Blip2Processor",
            "tokenizer_class": "GPT2Tokenizer",
            **named,
        },
    )
    tokenizer = Tokenizer(models.BPE({t: i for t, i in vocabulary.items() if t != IMAGE}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    tokenizer.add_special_tokens([*SPECIAL, IMAGE])
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocabulary)
