"""`a4a inspect`: what an adapter or a model is, without loading more than needed."""

import json as json_format
from pathlib import Path
from typing import Any

from a4a.adapters import formats
from a4a.adapters.conditioning import describe_conditions
from a4a.adapters.loading import find_config, load_adapter
from a4a.adapters.projections import projection_families
from a4a.backbones.base import denoiser_part, family_of
from a4a.backbones.loading import empty_model
from a4a.errors import InputError
from a4a.features import Site
from a4a.utils.modules import parameter_count

KEYS_VALUES = (".to_k_ip.weight", ".to_v_ip.weight")


def inspect(path: str, json: bool = False) -> None:
    """Describe an adapter or a model: family, tokens, image encoder, attention sites and widths.

    Args:
        path: Adapter file or folder, or diffusers pipeline folder: here, on the hub by its name, or zoo:NAME.
        json: Print JSON instead of a table.
    """
    facts = inspect_facts(path)
    print(json_format.dumps(facts, indent=1) if json else f"{_table(facts)}\n{_next_step(facts)}")


def inspect_facts(path: str) -> dict[str, Any]:
    """The facts, counts as numbers and `layers` as [name, width] of each site; InputError for any other path."""
    index = find_config(path, "model_index.json", "config.json")
    if index is None:
        return {"path": path, **_published(path)}
    return {"path": path, **(_saved(path) if index.name == "config.json" else _model(path, index))}


def _published(path: str) -> dict[str, Any]:
    """A checkpoint of an IP-Adapter, as others publish it."""
    file = formats.find_checkpoint(path)
    image_proj, layers = formats.load_halves(file)
    found = formats.describe(image_proj, layers, file)
    return {
        "kind": f"IP-Adapter, {found.family} family",
        "transferable": found.projection is not None,
        "tokens": found.options.get("tokens"),
        "image encoder": found.image_encoder or "see the family's publication",
        "embedding width": found.options.get("image_embed_dim"),
        "text width": found.text_width,
        "condition numbers": describe_conditions([t for name, t in layers.items() if name.endswith(KEYS_VALUES)]),
        "parameters": sum(t.numel() for t in (*image_proj.values(), *layers.values())),
        **_sites(found.sites),
    }


def _saved(path: str) -> dict[str, Any]:
    """An adapter that a4a saved."""
    adapter = load_adapter(path)
    return {
        "kind": adapter.kind,
        "tokens": adapter.tokens,
        "image encoder": adapter.image_encoder,
        "embedding width": getattr(adapter, "image_embed_dim", None),
        "parameters": parameter_count(adapter),
        **_sites(adapter.sites),
        **adapter.facts(),
    }


def _model(path: str, file: Path) -> dict[str, Any]:
    """A diffusers pipeline, by its configuration alone."""
    index = json_format.loads(file.read_text())
    parts = {part: entry[1] for part, entry in index.items() if isinstance(entry, list)}
    found = denoiser_part({part: name for part, name in parts.items() if name})
    config = find_config(f"{path}/{found}", "config.json")
    if config is None:
        raise InputError(
            f"{path} is no whole pipeline: its {found} has no config.json; restore the folder from where it came."
        )
    denoiser = empty_model(config.parent.parent, found, parts[found])
    family = family_of(denoiser, path)
    choices = [f"{choice} ({len(family.find_sites(denoiser, choice))})" for choice in family.site_choices]
    return {
        "kind": f"{index['_class_name']} with {type(denoiser).__name__}",
        "parameters": parameter_count(denoiser),
        **_sites(family.find_sites(denoiser)),
        **({"choices of sites": ", ".join(choices)} if choices else {}),
    }


def _sites(sites: tuple[Site, ...]) -> dict[str, Any]:
    widths = [s.width for s in sites]
    return {
        "sites": len(sites),
        "widths": ", ".join(f"{widths.count(w)} x {w}" for w in dict.fromkeys(widths)),
        "layers": [[s.name, s.width] for s in sites],
    }


def _table(facts: dict[str, Any]) -> str:
    rows = {name: value for name, value in facts.items() if name != "layers" and value is not None}
    count, (size, precision) = facts["parameters"], (4, "float32") if "precision" in facts else (2, "half precision")
    rows["parameters"] = f"{count:,} ({count * size / 1e9:.3g} GB in {precision})"
    return "\n".join(f"{name:18} {_text(value)}" for name, value in rows.items())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _next_step(facts: dict[str, Any]) -> str:
    path = facts["path"]
    if "tokens" not in facts:
        return f"Next: a4a generate --model {path} --adapter ADAPTER, or transfer an adapter to it: a4a transfer --help"
    if not facts.get("transferable", True):
        known = ", ".join(projection_families())
        return f"Next: choose an adapter of a family that is supported ({known}), to generate with it or transfer it."
    several = f" --source {facts['sources'].split(', ')[0]}" if "sources" in facts else ""
    draw = f'Next: a4a generate --adapter {path}{several} --model MODEL --image photo.png --prompt "a dog" --output pictures'
    if several:
        return draw
    return f"{draw}\nor transfer it to another model: a4a transfer --source {path}"
