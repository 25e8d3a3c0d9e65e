"""What an image prompt adds to the time of a denoiser's block: `python benchmarks/injection_overhead.py [MODEL ...]`.

For every published model, one block of each kind that has sites, at its real widths, with random weights and the inputs
that the whole model gives it for an image of 1024 pixels (of a video for a video model): found by running the model on
the meta device. Timed in turn, round by round: the block, the block with features attached, and the block with
diffusers' own IP-Adapter where diffusers has one for the model. A ratio is the median over rounds, with a 95 % interval.
Seconds are those that the process itself computes, on one thread, so that other processes of the machine count little.

Results are added to benchmarks/results/injection_overhead.json; `benchmarks/support.py` puts them into docs/support.md.
"""

import copy
import inspect
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0, SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from a4a.backbones import Backbone
from a4a.backbones.attention import ImageRows
from a4a.backbones.meta import load_meta_model, published_models
from a4a.features import Site, SiteFeatures
from a4a.injection import Injection, attach
from a4a.utils.files import write_json
from a4a.utils.machine import machine

RESULTS = Path(__file__).parent / "results" / "injection_overhead.json"
PIXELS, TOKENS = 1024, 4
VIDEOS = {8: (21, 60, 104), 16: (31, 44, 80)}
"""Frames, height and width of Wan's latents by pixels per latent: 81 frames of 480 x 832, 121 frames of 704 x 1280."""
SECONDS, ROUNDS = 20.0, (5, 40)
"""For one block: time to spend, and fewest and most rounds."""

Call = tuple[tuple, dict[str, Any]]


@dataclass
class Block:
    """One block of a published model, on the meta device, with the arguments that the model calls it with."""

    name: str
    module: nn.Module
    site: Site
    """Inside the block."""
    call: Call
    image_rows: ImageRows | None
    """Which rows of a sequence are the image's, in this call of the model."""

    def kind(self) -> str:
        """The same for blocks that compute the same: class, attention, weights, shapes of inputs."""
        shapes = [tuple(t.shape) for t in (*self.module.parameters(), *tree_leaves(self.call)) if hasattr(t, "shape")]
        return f"{type(self.module).__name__} {self.site.attention} {shapes}"


# --- blocks of a published model -------------------------------------------------------------------------------------


def find_blocks(backbone: Backbone) -> list[Block]:
    """The first block of each kind: class, attention contract and width; of those, with the most rows."""
    places: dict[str, Site] = {}
    for site in backbone.sites:
        parent = site.name
        while type(backbone.denoiser.get_submodule(parent)).__name__ not in backbone.blocks:
            parent = parent.rpartition(".")[0]
        places.setdefault(parent, site)
    calls, image_rows = record_calls(backbone, list(places))
    found: dict[tuple, Block] = {}
    for name, site in places.items():
        module = backbone.denoiser.get_submodule(name)
        inside = Site(site.name.removeprefix(f"{name}."), site.width, 0.0, site.attention)
        kind = (type(module).__name__, site.attention, site.width)
        block = Block(name, module, inside, calls[name], image_rows)
        if kind not in found or rows(block) > rows(found[kind]):
            found[kind] = block
    return list(found.values())


def record_calls(backbone: Backbone, names: list[str]) -> tuple[dict[str, Call], ImageRows | None]:
    """The arguments of these modules during one prediction on the meta device, and which rows are the image's."""
    calls: dict[str, Call] = {}
    image_rows: list[ImageRows | None] = []
    handles = []

    def record_rows(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs = dict(zip(list(inspect.signature(type(model).forward).parameters)[1:], args, strict=False))
        image_rows.append(backbone.image_rows(model, {**inputs, **kwargs}))

    handles.append(backbone.denoiser.register_forward_pre_hook(record_rows, with_kwargs=True))
    for name in names:

        def record(_module: nn.Module, args: tuple, kwargs: dict[str, Any], name: str = name) -> None:
            calls.setdefault(name, (args, kwargs))

        module = backbone.denoiser.get_submodule(name)
        handles.append(module.register_forward_pre_hook(record, with_kwargs=True))
    side = backbone.latent_size(PIXELS)
    video = type(backbone.denoiser).__name__ == "WanTransformer3DModel"
    size = VIDEOS[backbone.vae_scale_factor] if video else (side, side)
    text = {
        name: torch.empty(1, *shape, dtype=dtype or backbone.dtype, device="meta")
        for name, (shape, dtype) in backbone.text_shapes().items()
    }
    noisy = torch.empty(1, backbone.latent_channels, *size, dtype=backbone.dtype, device="meta")
    with torch.no_grad():
        backbone.predict(noisy, torch.ones(1, device="meta"), text)
    for handle in handles:
        handle.remove()
    return calls, image_rows[0]


def rows(block: Block) -> int:
    """Rows of the longest sequence that the block sees."""
    args, kwargs = block.call
    return max(t.shape[1] for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor) and t.ndim == 3)


def materialise(block: Block, dtype: torch.dtype) -> tuple[nn.Module, Call]:
    """The block with random weights, and its arguments, on the CPU."""
    torch.manual_seed(0)
    module = copy.deepcopy(block.module).to(dtype).to_empty(device="cpu").eval().requires_grad_(False)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.normal_(std=0.02)

    def fill(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.device.type != "meta":
            return value
        if value.is_floating_point():
            return torch.randn(value.shape, dtype=dtype if value.dtype == torch.float32 else value.dtype)
        return (
            torch.randn(value.shape, dtype=value.dtype) if value.is_complex() else torch.ones_like(value, device="cpu")
        )

    return module, tree_map(fill, block.call)


# --- with an image prompt --------------------------------------------------------------------------------------------


def attach_features(block: Block, module: nn.Module, dtype: torch.dtype) -> Injection:
    shape = (1, TOKENS, block.site.width)
    features = SiteFeatures((torch.randn(shape, dtype=dtype),), (torch.randn(shape, dtype=dtype),))
    injection = attach(module, (block.site,), features, 0.8)
    injection.forward.rows = block.image_rows
    return injection


def with_native(block: Block, module: nn.Module, call: Call, dtype: torch.dtype) -> tuple[nn.Module, Call] | None:
    """A copy of the block with diffusers' own IP-Adapter, and its call; None where diffusers has none for it."""
    kind, (args, kwargs) = type(module).__name__, call
    native = copy.copy(module)
    native._modules = dict(module._modules)
    name = block.site.name
    attention: Any = copy.copy(module.get_submodule(name))
    native._modules[name] = attention
    attention.__dict__ = dict(attention.__dict__)
    attention._modules = dict(attention._modules)
    width = block.site.width
    if kind == "BasicTransformerBlock" and attention.to_k.in_features in (768, 1024, 2048):  # a U-Net's text
        text_width = attention.to_k.in_features
        processor = IPAdapterAttnProcessor2_0(width, text_width, (TOKENS,), 0.8)
        condition = [torch.randn(1, TOKENS, text_width, dtype=dtype)]
        kwargs = {**kwargs, "encoder_hidden_states": (kwargs["encoder_hidden_states"], condition)}
    elif kind == "JointTransformerBlock":
        head_width = width // attention.heads
        processor = SD3IPAdapterJointAttnProcessor2_0(width, 2432, head_width, 1280, 0.8)
        condition = {"ip_hidden_states": torch.randn(1, TOKENS, 2432, dtype=dtype)}
        kwargs = {**kwargs, "joint_attention_kwargs": {**condition, "temb": torch.randn(1, 1280, dtype=dtype)}}
    elif kind in ("FluxTransformerBlock", "ChromaTransformerBlock"):
        processor = FluxIPAdapterAttnProcessor(width, 4096, (TOKENS,), 0.8)
        condition = {"ip_hidden_states": [torch.randn(1, TOKENS, 4096, dtype=dtype)]}
        kwargs = {**kwargs, "joint_attention_kwargs": condition}
    else:
        return None
    attention.set_processor(processor.to(dtype).requires_grad_(False))
    return native, (args, kwargs)


# --- timing ----------------------------------------------------------------------------------------------------------


def seconds(module: nn.Module, call: Call) -> float:
    start = time.process_time()
    module(*call[0], **call[1])
    return time.process_time() - start


def time_block(block: Block, dtype: torch.dtype) -> dict[str, list[float]]:
    """Seconds of each way, round by round; the ways take turns, and the order turns with the rounds."""
    module, call = materialise(block, dtype)
    native = with_native(block, module, call, dtype)

    def with_image() -> float:
        with attach_features(block, module, dtype):
            return seconds(module, call)

    ways: dict[str, Callable[[], float]] = {"plain": lambda: seconds(module, call), "image prompt": with_image}
    if native is not None:
        ways["diffusers' own"] = lambda: seconds(*native)
    for way in ways.values():  # warm up, and check that all of them run
        once = way()
    least, most = ROUNDS
    rounds = int(np.clip(SECONDS / (once * len(ways)), least, most))
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        order = list(ways)
        for name in order[i % len(order) :] + order[: i % len(order)]:
            times[name].append(ways[name]())
    return times


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """The median of the ratios of rounds, and its 95 % interval by the bootstrap."""
    ratios = np.array(numerator) / np.array(denominator)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return {"median": round(float(np.median(ratios)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


@torch.no_grad()
def measure(block: Block, dtype: torch.dtype) -> dict[str, Any]:
    times = time_block(block, dtype)
    own = times.get("diffusers' own")
    found = {
        "block": type(block.module).__name__,
        "attention": block.site.attention,
        "width": block.site.width,
        "rows": rows(block),
        "rounds": len(times["plain"]),
        "seconds": round(float(np.median(times["plain"])), 4),
        "over plain": ratio(times["image prompt"], times["plain"]),
    }
    if own is not None:
        found["over diffusers' own"] = ratio(times["image prompt"], own)
        found["diffusers' own over plain"] = ratio(own, times["plain"])
    return found


@torch.no_grad()
def fastest_dtype() -> torch.dtype:
    """bfloat16 where this CPU multiplies it faster than float32."""
    seconds_of = {}
    for dtype in (torch.float32, torch.bfloat16):
        layer, rows = nn.Linear(1024, 1024).to(dtype), torch.randn(1024, 1024, dtype=dtype)
        seconds_of[dtype] = min(seconds(layer, ((rows,), {})) for _ in range(20))
    return min(seconds_of, key=lambda dtype: seconds_of[dtype])


def main() -> None:
    torch.set_num_threads(1)
    dtype, known = fastest_dtype(), {}
    for model in sys.argv[1:] or sorted(published_models()):
        blocks = find_blocks(load_meta_model(model).backbone)
        for block in blocks:
            if block.kind() not in known:
                known[block.kind()] = measure(block, dtype)
                print(model, json.dumps(known[block.kind()]), flush=True)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        entry = {"machine": machine(), "dtype": str(dtype).removeprefix("torch.")}
        entry["blocks"] = [known[block.kind()] for block in blocks]
        write_json(RESULTS, results | {model: entry}, indent=1)


if __name__ == "__main__":
    main()
