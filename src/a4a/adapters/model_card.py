"""Saved adapter folders: weights, configuration and a model card that says what the adapter is for."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from a4a.adapters.base import ImagePromptAdapter


def card(adapter: ImagePromptAdapter, facts: dict[str, Any]) -> ModelCard:
    """What the adapter says of itself, and those `facts` that are known."""
    kind, model, source = type(adapter).__name__, facts.get("model"), facts.get("source")
    data = ModelCardData(
        library_name="a4a", base_model=model and str(model), tags=["image-prompt", "ip-adapter", kind.lower()]
    )
    if model:
        data["base_model_relation"] = "adapter"  # pyright: ignore[reportIndexIssue]
    if kind == "A4A":
        origin = f"It was transferred from {f'`{source}`' if source else 'an IP-Adapter'} by A4A."
    else:
        origin = "It was trained from scratch on this model (IP-Adapter)." if model else "It is an IP-Adapter."
    count = sum(p.numel() for p in adapter.parameters())
    samples = f"\n| training samples | {facts['samples']:,} |" if "samples" in facts else ""
    text = f"""---
{data.to_yaml()}
---

# An image-prompt adapter{f" for {model}" if model else ""}

{origin}

| | |
|---|---|
| kind | {kind}, {count / 1e6:.2f}M parameters |
| for | {len(adapter.sites)} cross-attention layers, widths {_runs([s.width for s in adapter.sites])} |
| image tokens | {adapter.tokens} |
| image encoder | {f"`{adapter.image_encoder}`" if adapter.image_encoder else "not recorded"}, embeddings of width {adapter.image_embed_dim} |{samples}

```python
from a4a import {kind}, CLIPImageEncoder, ImagePromptPipeline

pipe = ImagePromptPipeline(pipe, {kind}.from_pretrained("this/folder"), CLIPImageEncoder.from_pretrained("{adapter.image_encoder_path or "its/image/encoder"}"))
pipe("a prompt", image_prompt=picture).images
```
"""
    return ModelCard(text)


def _runs(widths: list[int]) -> str:
    return ", ".join(f"{widths.count(w)} x {w}" for w in dict.fromkeys(widths))
