"""Where the attention sites of diffusers' models are in ComfyUI's, which keep the names that their authors gave.

| model | site in diffusers | module in ComfyUI | block |
|---|---|---|---|
| SD1.5, SD2.1, SDXL, Kolors | `down_blocks.I.attentions.J.transformer_blocks.T.attn2` | `input_blocks.(3I+J+1).1.transformer_blocks.T.attn2` | input, 3I+J+1, T |
| | `up_blocks.I.attentions.J.transformer_blocks.T.attn2` | `output_blocks.(3I+J).1.transformer_blocks.T.attn2` | output, 3I+J, T |
| | `mid_block.attentions.0.transformer_blocks.T.attn2` | `middle_block.1.transformer_blocks.T.attn2` | middle, 0, T |
| FLUX.1, FLUX.2, Chroma | `transformer_blocks.N.attn` | `double_blocks.N.img_attn` | double, N |
| | `single_transformer_blocks.N.attn` | `single_blocks.N` | single, N |
| Qwen-Image | `transformer_blocks.N.attn` | the same | double, N |
| PixArt | `transformer_blocks.N.attn2` | `blocks.N.cross_attn` | cross, N |
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal

from torch import nn

from a4a import InputError, Site
from a4a.features import are_named, differing_site

Family = Literal["unet", "flux", "qwen_image", "pixart"]
Block = tuple[str, int] | tuple[str, int, int]
"""What ComfyUI's patches call an attention module: kind and number of its block, and in U-Nets the number inside it."""

LAYERS = 3
"""Layers in a block of a U-Net: two with attention and one that changes the resolution, or three with attention."""


@dataclass(frozen=True)
class ModelSite:
    """A site of a model that ComfyUI has loaded."""

    site: Site
    """By the name and width that it has in diffusers."""
    block: Block
    module: str
    """Name of the attention module inside ComfyUI's denoiser."""
    key_norm: str | None
    """Name of the norm of its keys."""


@dataclass(frozen=True)
class _Names:
    """How ComfyUI names one kind of attention module of a family."""

    module: str
    """Pattern of the module's name."""
    translate: Callable[..., tuple[Block, str]]
    """From the numbers in that name to the block and to the name in diffusers."""
    width: str
    """Attribute of the module with the width of its keys."""
    parts: tuple[str, ...]
    """Attributes that tell it from modules of the same name in other families."""
    key_norm: str | None = None


def _down(block: int, transformer: int) -> tuple[Block, str]:
    level, layer = divmod(block - 1, LAYERS)  # block 0 is the first convolution
    name = f"down_blocks.{level}.attentions.{layer}.transformer_blocks.{transformer}.attn2"
    return ("input", block, transformer), name


def _up(block: int, transformer: int) -> tuple[Block, str]:
    level, layer = divmod(block, LAYERS)
    return (
        "output",
        block,
        transformer,
    ), f"up_blocks.{level}.attentions.{layer}.transformer_blocks.{transformer}.attn2"


def _middle(transformer: int) -> tuple[Block, str]:
    return ("middle", 0, transformer), f"mid_block.attentions.0.transformer_blocks.{transformer}.attn2"


def _double(number: int) -> tuple[Block, str]:
    return ("double", number), f"transformer_blocks.{number}.attn"


def _single(number: int) -> tuple[Block, str]:
    return ("single", number), f"single_transformer_blocks.{number}.attn"


def _cross(number: int) -> tuple[Block, str]:
    return ("cross", number), f"transformer_blocks.{number}.attn2"


_IN_UNET = r"\.1\.transformer_blocks\.(\d+)\.attn2"
_UNET = {"width": "to_k.out_features", "parts": ("to_q", "to_k", "to_v", "to_out")}

NAMES: dict[Family, tuple[_Names, ...]] = {
    "unet": (
        _Names(r"input_blocks\.(\d+)" + _IN_UNET, _down, **_UNET),
        _Names(r"output_blocks\.(\d+)" + _IN_UNET, _up, **_UNET),
        _Names(r"middle_block" + _IN_UNET, _middle, **_UNET),
    ),
    "flux": (
        _Names(r"double_blocks\.(\d+)\.img_attn", _double, "proj.in_features", ("norm",), "norm.key_norm"),
        _Names(r"single_blocks\.(\d+)", _single, "linear2.out_features", ("norm", "linear2"), "norm.key_norm"),
    ),
    "qwen_image": (
        _Names(r"transformer_blocks\.(\d+)\.attn", _double, "to_k.out_features", ("add_k_proj", "norm_k"), "norm_k"),
    ),
    "pixart": (_Names(r"blocks\.(\d+)\.cross_attn", _cross, "proj.in_features", ("q_linear", "proj")),),
}
"""By family, in the order of published adapters: a U-Net's way down, its way up, its middle."""


def find_sites(denoiser: nn.Module) -> tuple[Family, list[ModelSite]]:
    """The family of a denoiser that ComfyUI has loaded, and its sites; InputError where it is of no known family."""
    modules = dict(denoiser.named_modules())
    for family, kinds in NAMES.items():
        found = [site for names in kinds for site in _matching(names, modules)]
        if found:
            return family, found
    raise InputError(
        f"The denoiser {type(denoiser).__name__} has no attention modules that are known here; expected a U-Net "
        f"(SD1.5, SD2.1, SDXL, Kolors), FLUX.1, FLUX.2, Chroma, Qwen-Image or PixArt."
    )


def _matching(names: _Names, modules: dict[str, nn.Module]) -> list[ModelSite]:
    sites = []
    for name, module in modules.items():
        match = re.fullmatch(names.module, name)
        if match is None or not all(hasattr(module, part) for part in names.parts):
            continue
        block, diffusers_name = names.translate(*map(int, match.groups()))
        site = Site(diffusers_name, attrgetter(names.width)(module), 0.0)  # depths depend on which sites count
        key_norm = f"{name}.{names.key_norm}" if names.key_norm else None
        sites.append(ModelSite(site, block, name, key_norm))
    return sites


def sites_of(adapter_sites: Sequence[Site], denoiser: nn.Module) -> tuple[Family, list[ModelSite]]:
    """Family and sites of a denoiser, in the order of an adapter's sites.

    A published file numbers its sites instead of naming them. Raises InputError where they are not the denoiser's.
    """
    family, found = find_sites(denoiser)
    if family == "flux":  # adapters are for the double blocks, or for all
        lists = {site.name.split(".")[0] for site in adapter_sites}
        found = [f for f in found if f.site.name.split(".")[0] in lists]
    own, names = [f.site for f in found], are_named(adapter_sites)
    if (difference := differing_site(own, adapter_sites, names=names)) is not None:
        raise InputError(
            f"The features are not for the model {type(denoiser).__name__}: {difference} (expected: the model, found: "
            f"the features); load the adapter that was made for this model."
        )
    return family, _with_depths(found)


def _with_depths(sites: Sequence[ModelSite]) -> list[ModelSite]:
    """The sites with their depths: they run in this order, but a U-Net's middle before its way up."""
    order = sorted(range(len(sites)), key=lambda i: (sites[i].block[0] == "output", i))
    depths = {number: place / max(len(sites) - 1, 1) for place, number in enumerate(order)}
    return [replace(found, site=replace(found.site, depth=depths[i])) for i, found in enumerate(sites)]
