"""Tiny random image encoders (CLIP, DINO, ArcFace in ONNX; real classes), and images for them."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

import tiny_models
from a4a.encoders import CLIPImageEncoder
from a4a.evaluation.metrics import GeneratedSet

SIDE = 64
LANDMARKS = [(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)]
"""Where ArcFace's alignment puts eyes, nose and mouth in 112 x 112."""


def random_blocks(seed, face=True):
    """An image of large random blocks, another for each seed. Its face, to the tiny detector, is a green square."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3))
    blocks[..., 1] = blocks[..., 0]
    image = blocks.repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
    return Image.fromarray(with_face(image) if face else image.astype(np.uint8))


def noise(seed, face=True):
    """An image of random pixels, far from every `random_blocks`."""
    image = np.random.default_rng(1000 + seed).integers(0, 256, (SIDE, SIDE, 3))
    image[..., 1] = image[..., 0]
    return Image.fromarray(with_face(image) if face else image.astype(np.uint8))


def with_face(image, x=SIDE // 2, y=SIDE // 2, blue=0):
    """A copy of the pixels with a green square around (x, y), which the tiny detector takes for a face."""
    image = image.astype(np.uint8).copy()
    image[y - 8 : y + 8, x - 8 : x + 8] = (0, 255, blue)
    return image


def photo(colour, size=(20, 30)):
    """One colour, with a black corner."""
    image = Image.new("RGB", size, colour)
    image.paste((0, 0, 0), (0, 0, 8, 8))
    return image


def image_encoder(width=tiny_models.EMBED):
    """A CLIP vision tower in memory, for the adapters of `tiny_models`."""
    torch.manual_seed(9)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=width,
    )
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    return CLIPImageEncoder.from_modules(CLIPVisionModelWithProjection(config), CLIPImageProcessorPil(**sizes))


def generated(subjects=6, generations=2, of=None, seed=0, face=True):
    """A GeneratedSet whose images are `of(subject, generation)`; by default the references themselves."""
    references = [random_blocks(seed + s) for s in range(subjects)]
    images = [[references[s] if of is None else of(s, g) for g in range(generations)] for s in range(subjects)]
    return GeneratedSet(
        references, [[f"a cat number {s} {g}" for g in range(generations)] for s in range(subjects)], images
    )


def clip(folder, whole=True):
    """Save a tiny CLIP, or its vision tower alone, and return the folder."""
    tokenizer = tiny_models.clip_tokenizer()
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 24,
    }
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=8)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length, **ids)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24)
    model = tiny_models.shaken(CLIPModel(config) if whole else CLIPVisionModelWithProjection(vision), 0.2)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    if whole:
        tokenizer.save_pretrained(folder)
    return str(folder)


def dino(folder, kind="dinov2"):
    """Save a tiny DINOv2, or the plain vision transformer that DINO is, and return the folder."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**sizes, image_size=32))
        BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        model = ViTModel(ViTConfig(**sizes, intermediate_size=64, image_size=32), add_pooling_layer=False)
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    tiny_models.shaken(model, 0.2).save_pretrained(folder)
    return str(folder)


def faces(folder, detector=True, recogniser=True, landmarks=True):
    """A tiny antelopev2: a detector with SCRFD's outputs for strides 8, 16, 32, and an encoder of 112 x 112 faces."""
    folder.mkdir(parents=True, exist_ok=True)
    if detector:
        save_onnx(_detector(landmarks), folder / "scrfd.onnx")
    if recogniser:
        save_onnx(_recogniser(), folder / "arcface.onnx")
    return folder


def _detector(landmarks):
    """Finds faces at stride 8 alone, where the image is green and not red; blue makes a face wider than 24 pixels."""
    constants = {
        "green": np.array([-10, 10, 0], np.float32).reshape(1, 3, 1, 1),
        "blue": np.array([0, 0, 1], np.float32).reshape(1, 3, 1, 1),
        "bar": np.array(12, np.float32),
        "nothing": np.array(0, np.float32),
        "column": np.array([-1, 1], np.int64),
        "box": np.full((1, 4), 1.5, np.float32),
        "points": ((np.array(LANDMARKS, np.float32) - 56) / 112 * 48 / 8).reshape(1, 10),
    }
    nodes, outputs = [], []

    def node(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}.{name}", **attributes))
        return name

    for stride in (8, 16, 32):
        pooled = node("AveragePool", ["input"], f"pooled{stride}", kernel_shape=[stride] * 2, strides=[stride] * 2)
        columns = {}
        for colour in ("green", "blue"):
            seen = node("Conv", [pooled, colour], f"{colour}{stride}")
            column = node("Reshape", [seen, "column"], f"{colour}_column{stride}")
            twice = node("Concat", [column, column], f"{colour}_twice{stride}", axis=1)  # two anchors at every place
            columns[colour] = node("Reshape", [twice, "column"], f"{colour}_anchors{stride}")
        sure = node("Sigmoid", [node("Sub", [columns["green"], "bar"], f"over{stride}")], f"sure{stride}")
        score = sure if stride == 8 else node("Mul", [sure, "nothing"], f"never{stride}")
        none = node("Mul", [sure, "nothing"], f"none{stride}")
        box = node("Add", [columns["blue"], node("Add", [none, "box"], f"small{stride}")], f"boxes{stride}")
        outputs.append((score, box, node("Add", [none, "points"], f"points{stride}")))
    named = [
        (name, width)
        for part, width in ((0, 1), (1, 4), (2, 10))
        for name, width in ((o[part], width) for o in outputs)
    ]
    output_infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["candidates", width])
        for name, width in named[: 9 if landmarks else 6]
    ]
    input_info = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])
    return helper.make_graph(
        nodes, "detector", [input_info], output_infos, [numpy_helper.from_array(v, k) for k, v in constants.items()]
    )


def _recogniser():
    weights = np.random.default_rng(0).normal(size=(3 * 14 * 14, 32)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["face"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["identity"]),
    ]
    input_info = helper.make_tensor_value_info("face", TensorProto.FLOAT, [1, 3, 112, 112])
    output_info = helper.make_tensor_value_info("identity", TensorProto.FLOAT, [1, 32])
    return helper.make_graph(
        nodes, "recogniser", [input_info], [output_info], [numpy_helper.from_array(weights, "weights")]
    )


def save_onnx(graph, path):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
