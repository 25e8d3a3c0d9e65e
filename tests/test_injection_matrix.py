"""Injection and whatever else can be done to a denoiser, in either order: never the plain image without a word.

On a U-Net (cross-attention), PixArt (cross-attention, one module after the other) and SD3 (joint attention), each
feature is applied before features are attached, while they are, and after they were detached. The image must be the one
that an untouched copy of the model gives with the same image features, and after detaching that of the plain model with
the same feature, bit for bit.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import accelerate
import peft
import pytest
import torch
from accelerate.hooks import ModelHook as AccelerateHook
from accelerate.hooks import add_hook_to_module, remove_hook_from_module, remove_hook_from_submodules
from diffusers import (
    PixArtTransformer2DModel,
    PyramidAttentionBroadcastConfig,
    UNet2DConditionModel,
    apply_pyramid_attention_broadcast,
)
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading
from diffusers.models.attention_processor import AttnProcessor, JointAttnProcessor2_0
from torch import nn
from torch._dynamo.testing import CompileCounter
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import tiny_transformers
from a4a.backbones.pixart import PixArt
from a4a.backbones.unet import UNet
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.injection import attach, is_attached
from tiny_transformers import Tiny

# --- three denoisers -------------------------------------------------------------------------------------------------


@cache
def unet() -> Tiny:
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    draw = tiny_transformers.draw
    inputs = {
        "sample": draw(2, 4, 8, 8),
        "timestep": torch.tensor([500, 20]),
        "encoder_hidden_states": draw(2, 5, 16),
    }
    return Tiny(model.eval().requires_grad_(False), inputs, UNet.find_sites(model))


@cache
def pixart() -> Tiny:
    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        norm_num_groups=8,
    )
    draw = tiny_transformers.draw
    inputs = {
        "hidden_states": draw(2, 4, 8, 8),
        "timestep": torch.tensor([500, 20]),
        "encoder_hidden_states": draw(2, 5, 16),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return Tiny(model.eval().requires_grad_(False), inputs, PixArt.find_sites(model))


@cache
def sd3() -> Tiny:
    return tiny_transformers.sd3(None)


MODELS = {"unet": unet, "pixart": pixart, "sd3": sd3}


def fresh(name: str) -> Tiny:
    tiny = MODELS[name]()
    return replace(tiny, model=copy.deepcopy(tiny.model))


def features(tiny: Tiny) -> SiteFeatures:
    generator = torch.Generator().manual_seed(3)
    draw = [[torch.randn(2, 4, s.width, generator=generator) for s in tiny.sites] for _ in range(2)]
    return SiteFeatures(*map(tuple, draw))


def run(tiny: Tiny) -> torch.Tensor:
    with torch.no_grad():
        return tiny().clone()


def inject(tiny: Tiny):
    return attach(tiny.model, tiny.sites, features(tiny), 0.8)


# --- what is done to them --------------------------------------------------------------------------------------------


@dataclass
class Feature:
    """`apply` and `undo` change a denoiser; `reference` makes a plain model that computes the same another way."""

    apply: Callable[[Tiny], None]
    undo: Callable[[Tiny], None] | None = None
    reference: Callable[[Tiny], None] = lambda tiny: None
    exact: bool = True
    """Whether the model computes the reference's numbers bit for bit."""
    compiles: bool = False
    """Whether it compiles whenever something changed, which takes seconds: the shortest way through the tests then."""


def site_modules(tiny: Tiny) -> list[nn.Module]:
    return [tiny.model.get_submodule(s.name) for s in tiny.sites]


class Around(ModelHook):
    """Runs before and after a module's forward."""

    def pre_forward(self, module, *args, **kwargs):
        return args, kwargs

    def post_forward(self, module, output):
        return output


class Instead(ModelHook):
    """Runs in place of a module's forward, which it calls."""

    def new_forward(self, module, *args, **kwargs):
        return self.fn_ref.original_forward(*args, **kwargs)


def registry_hook(*hooks: type[ModelHook]) -> Feature:
    def apply(tiny):
        for module in site_modules(tiny):
            for i, kind in enumerate(hooks):
                HookRegistry.check_if_exists_or_initialize(module).register_hook(kind(), f"mine{i}")

    def undo(tiny):
        for module in site_modules(tiny):
            for i in range(len(hooks)):
                module._diffusers_hook.remove_hook(f"mine{i}")

    return Feature(apply, undo)


def broadcast(tiny: Tiny) -> None:
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1000),
        cross_attention_block_skip_range=2,
        cross_attention_timestep_skip_range=(0, 1000),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(tiny.model, config)
    assert all(m._diffusers_hook.hooks for m in site_modules(tiny))


def remove_from_registry(name: str) -> Callable[[Tiny], None]:
    return lambda tiny: HookRegistry.check_if_exists_or_initialize(tiny.model).remove_hook(name)


def accelerate_hook(tiny: Tiny) -> None:
    for module in site_modules(tiny):
        add_hook_to_module(module, AccelerateHook())


def remove_accelerate_hook(tiny: Tiny) -> None:
    for module in site_modules(tiny):
        remove_hook_from_module(module)


def model_offload(tiny: Tiny) -> None:
    accelerate.cpu_offload_with_hook(tiny.model, execution_device="cpu")


def sequential_offload(tiny: Tiny) -> None:
    accelerate.cpu_offload(tiny.model, execution_device=torch.device("cpu"), offload_buffers=True)


def group_offload(tiny: Tiny) -> None:
    cpu = torch.device("cpu")
    apply_group_offloading(tiny.model, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


def lora(tiny: Tiny) -> None:
    torch.manual_seed(5)
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    peft.inject_adapter_in_model(config, tiny.model)


def merged_lora(tiny: Tiny) -> None:
    """The same weights folded into plain linear layers."""
    lora(tiny)
    for module in list(tiny.model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, peft.tuners.lora.Linear):
                child.merge()
                setattr(module, name, child.get_base_layer())


def compiled(tiny: Tiny) -> None:
    tiny.model.compile(backend="eager")


BLOCKS = ("BasicTransformerBlock", "JointTransformerBlock")


def regionally_compiled(tiny: Tiny) -> None:
    tiny.model._repeated_blocks = BLOCKS  # diffusers names none for PixArt and SD3
    tiny.model.compile_repeated_blocks(backend="eager")


def casting(tiny: Tiny) -> None:
    tiny.model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def rounded(tiny: Tiny) -> None:
    """The weights that layer-wise casting stores in 16 bits, rounded at once."""
    stored = copy.deepcopy(tiny)
    casting(stored)
    with torch.no_grad():
        for p, low in zip(tiny.model.parameters(), stored.model.parameters(), strict=True):
            p.copy_(low)


def quantized(tiny: Tiny) -> None:
    for module in site_modules(tiny):
        quantize_(module, Int8WeightOnlyConfig(), lambda m, _: isinstance(m, nn.Linear))


def dequantized(tiny: Tiny) -> None:
    stored = copy.deepcopy(tiny)
    quantized(stored)
    with torch.no_grad():
        for module, low in zip(site_modules(tiny), site_modules(stored), strict=True):
            for p, q in zip(module.parameters(), low.parameters(), strict=True):
                p.copy_(q.dequantize() if hasattr(q, "dequantize") else q)


def other_processors(tiny: Tiny) -> None:
    joint = type(tiny.model).__name__ == "SD3Transformer2DModel"
    tiny.model.set_attn_processor(JointAttnProcessor2_0() if joint else AttnProcessor())


def checkpointing(tiny: Tiny) -> None:
    tiny.model.train()  # gradient checkpointing is for training alone
    tiny.model.enable_gradient_checkpointing()


def no_checkpointing(tiny: Tiny) -> None:
    tiny.model.eval()
    tiny.model.disable_gradient_checkpointing()


FEATURES = {
    "hook around": registry_hook(Around),
    "hook instead": registry_hook(Instead),
    "hooks on hooks": registry_hook(Instead, Around, Instead),
    "pyramid attention broadcast": Feature(broadcast, remove_from_registry("pyramid_attention_broadcast")),
    "accelerate hook": Feature(accelerate_hook, remove_accelerate_hook),
    "model offload": Feature(model_offload, lambda tiny: remove_hook_from_module(tiny.model)),
    "sequential offload": Feature(sequential_offload, lambda tiny: remove_hook_from_submodules(tiny.model)),
    "group offload": Feature(group_offload, remove_from_registry("group_offloading")),
    "lora": Feature(lora, reference=merged_lora, exact=False),
    "layer-wise casting": Feature(casting, reference=rounded),
    "quantised projections": Feature(quantized, reference=dequantized, exact=False),
    "fused projections": Feature(
        lambda tiny: tiny.model.fuse_qkv_projections(), lambda tiny: tiny.model.unfuse_qkv_projections(), exact=False
    ),
    "other processors": Feature(other_processors, exact=False),
    "gradient checkpointing": Feature(checkpointing, no_checkpointing),
    "compiled": Feature(compiled, compiles=True),
    "compiled by regions": Feature(regionally_compiled, compiles=True),
}


@pytest.fixture(autouse=True)
def nothing_compiled():
    yield
    torch._dynamo.reset()


@pytest.fixture(params=list(MODELS))
def model(request):
    return request.param


@pytest.fixture(params=list(FEATURES))
def feature(request):
    return FEATURES[request.param]


@pytest.fixture(params=[name for name, feature in FEATURES.items() if feature.undo])
def undoable(request):
    return FEATURES[request.param]


@pytest.fixture
def expected(model, request):
    return images(model, request.node.callspec.params["feature"])


@cache
def images(model: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """With image features, by the reference, and without them."""
    feature, untouched = FEATURES[name], fresh(model)
    feature.reference(untouched)
    with inject(untouched):
        injected = run(untouched)
    alone = fresh(model)
    if not feature.compiles:  # which does not change the numbers, as other tests see
        feature.apply(alone)
    plain = run(alone)
    assert not torch.allclose(injected, plain, atol=1e-3), "the image features are too weak to be seen"
    return injected, plain


def check(found, expected, exact):
    if exact:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-3)


def test_a_technique_applied_before_attaching_keeps_injected_and_plain_result(model, feature, expected):
    injected, plain = expected
    tiny = fresh(model)
    feature.apply(tiny)
    assert torch.equal(run(tiny), plain)
    with inject(tiny) as injection:
        check(run(tiny), injected, feature.exact)
        if not feature.compiles:
            injection.clear()
            assert torch.equal(run(tiny), plain)
    assert not is_attached(tiny.model)
    assert torch.equal(run(tiny), plain)
    if feature.undo:
        feature.undo(tiny)
        assert torch.equal(run(tiny), run(fresh(model)))


def test_a_technique_applied_while_attached_keeps_injected_and_plain_result(model, feature, expected):
    injected, plain = expected
    tiny = fresh(model)
    with inject(tiny):
        feature.apply(tiny)
        check(run(tiny), injected, feature.exact)
    assert torch.equal(run(tiny), plain)
    if not feature.compiles:
        with inject(tiny):
            check(run(tiny), injected, feature.exact)
        assert torch.equal(run(tiny), plain)


def test_a_technique_applied_and_undone_while_attached_leaves_no_trace(model, undoable):
    tiny = fresh(model)
    with inject(tiny):
        injected = run(tiny)
        undoable.apply(tiny)
        run(tiny)
        undoable.undo(tiny)
        assert torch.equal(run(tiny), injected)
    assert torch.equal(run(tiny), run(fresh(model)))


def test_a_technique_applied_after_detaching_meets_the_plain_model(model, feature, expected):
    injected, plain = expected
    tiny = fresh(model)
    with inject(tiny):
        run(tiny)
    feature.apply(tiny)
    assert torch.equal(run(tiny), plain)
    if not feature.compiles:
        with inject(tiny):
            check(run(tiny), injected, feature.exact)


def test_a_technique_applied_before_and_undone_while_attached_leaves_no_trace(model, undoable):
    tiny = fresh(model)
    with inject(tiny):
        injected = run(tiny)
    undoable.apply(tiny)
    with inject(tiny):
        undoable.undo(tiny)
        assert torch.equal(run(tiny), injected)
    assert torch.equal(run(tiny), run(fresh(model)))


# --- what a test of one call does not show ---------------------------------------------------------------------------


def test_broadcast_attention_keeps_its_image_part(model):
    """Pyramid attention broadcast takes the second step's attention from the first: with the image's part, as there."""
    tiny, untouched = fresh(model), fresh(model)
    broadcast(tiny)
    second = replace(untouched, inputs={**untouched.inputs, "timestep": torch.tensor([400, 10])})
    kept = []
    attentions = [m for m in untouched.model.modules() if hasattr(m, "processor")]
    handles = [m.register_forward_hook(lambda _module, _args, output: kept.append(output)) for m in attentions]
    with inject(untouched):
        run(untouched)
        for handle in handles:
            handle.remove()
        replayed = iter(kept)
        handles = [m.register_forward_hook(lambda *_: next(replayed)) for m in attentions]
        expected = run(second)
    with inject(tiny):
        run(tiny)
        assert torch.equal(run(replace(second, model=tiny.model)), expected)


def test_cached_attention_of_the_plain_model_is_forgotten_when_features_come_and_go(model):
    tiny = fresh(model)
    with inject(tiny):
        injected = run(tiny)
    plain = run(tiny)
    broadcast(tiny)
    run(tiny)
    with inject(tiny):
        assert torch.equal(run(tiny), injected)
    assert torch.equal(run(tiny), plain)


def test_a_forward_replaced_by_hand_before_attaching_is_an_input_error(model):
    tiny = fresh(model)
    module = site_modules(tiny)[1]
    own = module.forward
    module.forward = lambda *args, **kwargs: own(*args, **kwargs)
    plain = run(tiny)
    with pytest.raises(InputError, match=f"The forward of {tiny.sites[1].name} was replaced by .*attach them first"):
        inject(tiny)
    assert not is_attached(tiny.model)
    assert torch.equal(run(tiny), plain)


def test_a_forward_replaced_by_hand_while_attached_computes_the_plain_image_after_detaching(model):
    tiny = fresh(model)
    plain, module = run(tiny), site_modules(tiny)[1]
    with inject(tiny):
        injected = run(tiny)
        own = module.forward
        module.forward = lambda *args, **kwargs: own(*args, **kwargs)
        assert torch.equal(run(tiny), injected)
    assert torch.equal(run(tiny), plain)


class Silent:
    """A processor that computes attention without the module's query projection."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        return attn.to_out[0](attn.to_v(encoder_hidden_states).mean(1, keepdim=True).expand_as(hidden_states))


class Mute:
    """A processor that reads the weights of the output projection in place of calling it."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        return nn.functional.linear(attn.to_q(hidden_states), attn.to_out[0].weight)


@pytest.mark.parametrize(
    ("processor", "message"),
    [(Silent, "Silent asks for to_out without having called to_q"), (Mute, "Mute never calls to_out")],
)
def test_a_processor_that_leaves_no_place_for_the_image_is_an_input_error(processor, message):
    tiny = fresh("pixart")
    site_modules(tiny)[0].set_processor(processor())
    run(tiny)
    message = rf"cannot enter at {tiny.sites[0].name}: its processor {message}"
    with pytest.raises(InputError, match=message), inject(tiny):
        run(tiny)


def test_two_injections_share_a_model_where_their_sites_differ(model):
    tiny = fresh(model)
    given = features(tiny)
    with inject(tiny):
        expected = run(tiny)
    first, second = tiny.sites[:1], tiny.sites[1:]
    with attach(tiny.model, first, SiteFeatures(given.keys[:1], given.values[:1]), 0.8):
        with pytest.raises(InputError, match=f"already attached at {tiny.sites[0].name}"):
            inject(tiny)
        with attach(tiny.model, second, SiteFeatures(given.keys[1:], given.values[1:]), 0.8):
            assert torch.equal(run(tiny), expected)
    assert torch.equal(run(tiny), run(fresh(model)))


def test_a_copy_of_an_attached_model_keeps_its_features(model):
    tiny = fresh(model)
    with inject(tiny):
        injected, copied = run(tiny), replace(tiny, model=copy.deepcopy(tiny.model))
    assert torch.equal(run(copied), injected)
    assert torch.equal(run(tiny), run(fresh(model)))


def test_compiled_regions_share_graphs_that_new_features_do_not_recompile():
    tiny, counter = fresh("pixart"), CompileCounter()
    tiny.model._repeated_blocks = BLOCKS
    with inject(tiny) as injection:
        expected = run(tiny)
        tiny.model.compile_repeated_blocks(backend=counter, fullgraph=True)
        assert torch.equal(run(tiny), expected)
        injection.set(features(tiny).map(lambda t: -t), 0.8)
        assert not torch.allclose(run(tiny), expected, atol=1e-3)
    assert counter.frame_count == 2  # for three blocks, as of the plain model: the first one's input has other strides
