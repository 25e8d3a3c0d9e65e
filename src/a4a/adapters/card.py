"""Saved adapter folders: weights, configuration and a model card that says what the adapter is for."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from a4a.adapters.adapter import ImagePromptAdapter
from a4a.files import replacing


def save_with_card(adapter: ImagePromptAdapter, folder: Path, facts: dict[str, Any]) -> None:
    """Writes the folder whole or not at all. `facts`: model, source, image_encoder, samples."""
    with replacing(folder) as beside:
        beside.mkdir(parents=True)
        adapter.save_pretrained(beside)
        card(adapter, facts).save(beside / "README.md")


def card(adapter: ImagePromptAdapter, facts: dict[str, Any]) -> ModelCard:
    kind = type(adapter).__name__
    data = ModelCardData(library_name="a4a", base_model=str(facts["model"]), tags=["image-prompt", "ip-adapter", kind.lower()])
    data["base_model_relation"] = "adapter"  # pyright: ignore[reportIndexIssue]
    origin = f"It was transferred from `{facts['source']}` by A4A." if kind == "A4A" else "It was trained from scratch on this model (IP-Adapter)."
    count = sum(p.numel() for p in adapter.parameters())
    text = f"""---
{data.to_yaml()}
---

# An image-prompt adapter for {facts["model"]}

{origin}

| | |
|---|---|
| kind | {kind}, {count / 1e6:.2f}M parameters |
| for | {len(adapter.sites)} cross-attention layers, widths {_runs([s.width for s in adapter.sites])} |
| image tokens | {adapter.tokens} |
| image encoder | `{facts["image_encoder"]}`, embeddings of width {adapter.embed} |
| training samples | {facts["samples"]:,} |

```python
from a4a import {kind}, CLIPImageEncoder, ImagePromptPipeline

pipe = ImagePromptPipeline(pipe, {kind}.from_pretrained("this/folder"), CLIPImageEncoder.load("{facts["image_encoder"]}"))
pipe("a prompt", image_prompt=picture).images
```
"""
    return ModelCard(text)


def _runs(widths: list[int]) -> str:
    return ", ".join(f"{widths.count(w)} x {w}" for w in dict.fromkeys(widths))
