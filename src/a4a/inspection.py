"""`a4a inspect`: what an adapter or a model is, without loading more than needed."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from a4a.adapters import checkpoint
from a4a.adapters.a4a import A4A
from a4a.adapters.loading import load_adapter
from a4a.backbones import families
from a4a.errors import InputError
from a4a.features import Site
from a4a.places import resolve


def inspect(path: str, json: bool = False) -> None:
    """Say what an adapter or a model is: variant, tokens, image encoder, sites and widths.

    Args:
        path: Adapter file or folder, diffusers pipeline folder, hub name, or zoo:NAME.
        json: Print JSON instead of a table.
    """
    facts = describe(path)
    print(_json(facts) if json else _table(facts))


def describe(path: str) -> dict[str, Any]:
    """The facts; InputError where there is neither adapter nor model."""
    place = Path(resolve(path))
    if (place / "model_index.json").is_file():
        return {"path": path, **_model(place)}
    if (place / "config.json").is_file():
        return {"path": path, **_saved(place)}
    file = checkpoint.find(place if place.exists() else path)
    image_proj, layers = checkpoint.load(file)
    found = checkpoint.describe(image_proj, layers, file)
    count = sum(t.numel() for t in (*image_proj.values(), *layers.values()))
    return {
        "path": path,
        "kind": f"IP-Adapter, {found.variant} family",
        "transferable": found.variant == "base",
        "tokens": found.tokens,
        "image encoder": found.encoder if found.embed else "see the variant's publication",
        "embedding width": found.embed,
        "text width": found.text_width,
        "parameters": count,
        **_sites(found.sites),
    }


def _saved(place: Path) -> dict[str, Any]:
    adapter = load_adapter(place)
    facts = {
        "kind": "A4A, a transferred adapter" if isinstance(adapter, A4A) else "IP-Adapter",
        "tokens": adapter.tokens,
        "image encoder": adapter.image_encoder,
        "embedding width": adapter.embed,
        "parameters": sum(p.numel() for p in adapter.parameters()),
        **_sites(adapter.sites),
    }
    if isinstance(adapter, A4A):
        facts["transferred from"] = _sites(adapter.source.sites)["widths"]
    return facts


def _model(place: Path) -> dict[str, Any]:
    index = json.loads((place / "model_index.json").read_text())
    known = families()
    for part, entry in index.items():
        if isinstance(entry, list) and entry[1] in known:
            kind = getattr(diffusers, entry[1])
            with torch.device("meta"):
                denoiser = kind.from_config(kind.load_config(place / part))
            return {
                "kind": f"{index['_class_name']} with {entry[1]}",
                "parameters": sum(p.numel() for p in denoiser.parameters()),
                **_sites(known[entry[1]].find_sites(denoiser)),
            }
    names = [entry[1] for entry in index.values() if isinstance(entry, list)]
    raise InputError(f"{place} has no denoiser that is supported (found {', '.join(map(str, names))}); expected one of {', '.join(sorted(known))}.")


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
    rows = [(k, f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else v) for k, v in facts.items() if k != "layers" and v is not None]
    return "\n".join(f"{name:18} {value}" for name, value in rows)
