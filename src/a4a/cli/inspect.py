"""`a4a inspect`: what an adapter or a model is, without loading more than needed."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from a4a.adapters import formats
from a4a.adapters.a4a import A4A
from a4a.adapters.loading import described, load_adapter
from a4a.backbones import families
from a4a.errors import InputError
from a4a.features import Site


def inspect(path: str, json: bool = False) -> None:
    """Say what an adapter or a model is: variant, tokens, image encoder, sites and widths.

    Args:
        path: Adapter file or folder, or diffusers pipeline folder: here, on the hub by its name, or zoo:NAME.
        json: Print JSON instead of a table.
    """
    facts = describe(path)
    print(_json(facts) if json else _table(facts))


def describe(path: str) -> dict[str, Any]:
    """The facts; InputError where there is neither adapter nor model."""
    index = described(path, "model_index.json", "config.json")
    if index is not None:
        return {"path": path, **(_saved(path) if index.name == "config.json" else _model(path, index))}
    file = formats.find(path)
    image_proj, layers = formats.load(file)
    found = formats.describe(image_proj, layers, file)
    count = sum(t.numel() for t in (*image_proj.values(), *layers.values()))
    return {
        "path": path,
        "kind": f"IP-Adapter, {found.variant} family",
        "transferable": found.variant == "base",
        "tokens": found.tokens,
        "image encoder": found.encoder if found.image_embed_dim else "see the variant's publication",
        "embedding width": found.image_embed_dim,
        "text width": found.text_width,
        "parameters": count,
        **_sites(found.sites),
    }


def _saved(path: str) -> dict[str, Any]:
    adapter = load_adapter(path)
    facts = {
        "kind": "A4A, a transferred adapter" if isinstance(adapter, A4A) else "IP-Adapter",
        "tokens": adapter.tokens,
        "image encoder": adapter.image_encoder,
        "embedding width": adapter.image_embed_dim,
        "parameters": sum(p.numel() for p in adapter.parameters()),
        **_sites(adapter.sites),
    }
    if isinstance(adapter, A4A):
        facts["transferred from"] = _sites(adapter.source.sites)["widths"]
    return facts


def _model(path: str, file: Path) -> dict[str, Any]:
    index = json.loads(file.read_text())
    known = families()
    for part, entry in index.items():
        if isinstance(entry, list) and entry[1] in known:
            kind, config = getattr(diffusers, entry[1]), described(f"{path}/{part}", "config.json")
            if config is None:
                raise InputError(
                    f"{path} is no whole pipeline: its {part} has no config.json; restore the folder from where it came."
                )
            with torch.device("meta"):
                denoiser = kind.from_config(kind.load_config(config.parent))
            return {
                "kind": f"{index['_class_name']} with {entry[1]}",
                "parameters": sum(p.numel() for p in denoiser.parameters()),
                **_sites(known[entry[1]].find_sites(denoiser)),
            }
    names = [entry[1] for entry in index.values() if isinstance(entry, list)]
    raise InputError(
        f"{path} has no denoiser that is supported (found {', '.join(map(str, names))}); expected one of {', '.join(sorted(known))}."
    )


def _sites(sites: tuple[Site, ...]) -> dict[str, Any]:
    widths = [s.width for s in sites]
    return {
        "sites": len(sites),
        "widths": ", ".join(f"{widths.count(w)} x {w}" for w in dict.fromkeys(widths)),
        "layers": [[s.name, s.width] for s in sites],
    }


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=1)


def _table(facts: dict[str, Any]) -> str:
    rows = [
        (k, f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else v)
        for k, v in facts.items()
        if k != "layers" and v is not None
    ]
    return "\n".join(f"{name:18} {value}" for name, value in rows)
