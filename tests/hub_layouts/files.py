"""Writing configurations and weights under the names that the hub has."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))


def write_weights(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """`.bin` or `.safetensors`; in half precision where the name says fp16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {n: t.half() if ".fp16." in path.name and t.is_floating_point() else t for n, t in tensors.items()}
    whole = {name: t.detach().clone().contiguous() for name, t in half.items()}
    if path.suffix == ".bin":
        torch.save(whole, path)
    else:
        save_file(whole, path, metadata={"format": "pt"})


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], count: int = 2) -> None:
    """`model-00001-of-0000N.safetensors` and the index of transformers."""
    names, files = list(tensors), {}
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = names[len(names) * number // count : len(names) * (number + 1) // count]
        write_weights(folder / file, {name: tensors[name] for name in part})
        files |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": files})


def position_ids(tensors: dict[str, torch.Tensor], embeddings: str) -> dict[str, torch.Tensor]:
    """The buffer that transformers wrote until version 4.31, and that published files therefore hold."""
    count = len(tensors[f"{embeddings}.position_embedding.weight"])
    return {**tensors, f"{embeddings}.position_ids": torch.arange(count)[None]}


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": t for name, t in tensors.items()}
