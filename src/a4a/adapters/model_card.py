"""The model card of a saved adapter: what it is, which model it is for, how to use it."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from a4a.adapters.base import ImagePromptAdapter
from a4a.utils.modules import parameter_count


def card(adapter: ImagePromptAdapter, facts: dict[str, Any]) -> ModelCard:
    """The model card of an adapter, with those `facts` that are known: `model`, `source`, `init`, `samples`."""
    class_name = type(adapter).__name__
    model, source = (str(facts[name]) if facts.get(name) else None for name in ("model", "source"))
    relation: dict[str, Any] = {"base_model_relation": "adapter"} if model else {}
    tags = ["image-prompt", "ip-adapter", class_name.lower()]
    data = ModelCardData(library_name="a4a", base_model=model, tags=tags, **relation)
    encoder = f"`{adapter.image_encoder}`" if adapter.image_encoder else "not recorded"
    path = adapter.image_encoder_path or "its/image/encoder"
    samples = f"\n| training samples | {facts['samples']:,} |" if "samples" in facts else ""
    text = f"""---
{data.to_yaml()}
---

# An image-prompt adapter{f" for {model}" if model else ""}

{adapter.origin(model, source)}{f" Its training began from `{facts['init']}`." if facts.get("init") else ""}

| | |
|---|---|
| kind | {class_name}, {parameter_count(adapter) / 1e6:.2f}M parameters |
| for | {len(adapter.sites)} attention layers, widths {_runs([s.width for s in adapter.sites])} |
| image tokens | {adapter.tokens} |
| image encoder | {encoder}, {adapter.embeddings()} |{samples}

```python
from a4a import {class_name}, CLIPImageEncoder, ImagePromptPipeline, load_pipeline

adapter = {class_name}.from_pretrained("this/folder"){adapter.usage()}
encoder = CLIPImageEncoder.from_pretrained("{path}")
pipe = ImagePromptPipeline(load_pipeline("{model or "its/model"}"), adapter, encoder)
image = pipe(prompt="a prompt", image_prompt="photo.png").images[0]
```
"""
    return ModelCard(text)


def _runs(widths: list[int]) -> str:
    """How many sites have each width, such as `5 x 320, 5 x 640`."""
    return ", ".join(f"{widths.count(w)} x {w}" for w in dict.fromkeys(widths))
