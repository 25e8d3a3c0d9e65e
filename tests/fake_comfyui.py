"""A small fake of what ComfyUI promises its nodes: a ModelPatcher, and models that call its patches.

The models are tiny ones of diffusers: their modules under ComfyUI's names, with attention that calls patches where
ComfyUI's does. What is promised was read in ComfyUI 0.3.64 (U-Nets, PixArt, wrappers, object patches) and in nodes that
use the patches of FLUX and Qwen-Image of 2026.
"""

import copy
import sys
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen
from torch import nn

import tiny_models
from a4a.backbones import backbone_for


def optimized_attention(q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, transformer_options=None):
    """ComfyUI's attention: [batch, rows, width], or [batch, heads, rows, head width] where it skips reshaping."""
    if not skip_reshape:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)


class ModelSampling:
    """Noise levels from 10 to 0, linear in the part of the schedule that has passed."""

    def percent_to_sigma(self, percent):
        return 999999999.9 if percent <= 0 else 10.0 * (1 - min(percent, 1.0))


class ModelPatcher:
    """A model and the patches that hold while it runs; a clone shares the model and has patches of its own."""

    def __init__(self, model):
        self.model = model
        self.model_options = {"transformer_options": {}}
        self.object_patches, self.wrappers = {}, {}

    def clone(self):
        clone = ModelPatcher(self.model)
        options = self.model_options["transformer_options"]
        patches = {name: list(patches) for name, patches in options.get("patches", {}).items()}
        replace = {name: dict(patches) for name, patches in options.get("patches_replace", {}).items()}
        clone.model_options = {"transformer_options": {**options, "patches": patches, "patches_replace": replace}}
        clone.object_patches = dict(self.object_patches)
        clone.wrappers = {kind: {k: list(w) for k, w in keys.items()} for kind, keys in self.wrappers.items()}
        return clone

    def _patches(self, kind):
        return self.model_options["transformer_options"].setdefault(kind, {})

    def set_model_attn2_replace(self, patch, block_name, number, transformer_index=None):
        block = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
        self._patches("patches_replace").setdefault("attn2", {})[block] = patch

    def set_model_attn1_patch(self, patch):
        self._patches("patches").setdefault("attn1_patch", []).append(patch)

    def set_model_attn1_output_patch(self, patch):
        self._patches("patches").setdefault("attn1_output_patch", []).append(patch)

    def add_object_patch(self, name, value):
        self.object_patches[name] = value

    def get_model_object(self, name):
        return self.object_patches[name] if name in self.object_patches else _attribute(self.model, name)

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def run(self, noisy, timesteps, text, conditionings=(0,), sigma=5.0, options=None):
        """What a sampler does at one step: the model on a batch that has equal parts for several conditionings."""
        options = {
            **self.model_options["transformer_options"],
            "cond_or_uncond": list(conditionings),
            **(options or {}),
        }
        options["sigmas"] = torch.full((len(noisy) // len(conditionings),), sigma)
        model = self.model.apply_model
        for wrappers in self.wrappers.get("apply_model", {}).values():
            for wrapper in wrappers:
                model = _wrapped(wrapper, model)
        before = {name: _exchange(self.model, name, value) for name, value in self.object_patches.items()}
        try:
            return model(noisy, timesteps, None, text, None, options)
        finally:
            for name, value in before.items():
                _exchange(self.model, name, value)


def _wrapped(wrapper, model):
    return lambda *args, **kwargs: wrapper(model, *args, **kwargs)


def _attribute(model, path):
    for name in path.split("."):
        model = getattr(model, name)
    return model


def _exchange(model, path, value):
    owner, _, name = path.rpartition(".")
    owner = _attribute(model, owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    return before


class Model:
    """ComfyUI's BaseModel: a denoiser and its noise levels."""

    def __init__(self, denoiser):
        self.diffusion_model, self.model_sampling = denoiser, ModelSampling()

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None):
        return self.diffusion_model.run(x, t, c_crossattn, transformer_options)


def load_model(pipe):
    """A ComfyUI model with the weights of a tiny pipeline's denoiser, and the pipeline's backbone for its inputs."""
    own = tiny_models.with_own_denoiser(pipe)
    return ModelPatcher(Model(DENOISERS[type(backbone_for(own).denoiser).__name__](backbone_for(own))))


class Denoiser(nn.Module):
    """A diffusers denoiser under ComfyUI's names; `options` are the transformer_options of the running call."""

    def __init__(self, backbone):
        super().__init__()
        self._parts = SimpleNamespace(backbone=backbone, options=None)  # not as a module, by whose names it is known

    @property
    def backbone(self):
        return self._parts.backbone

    @property
    def options(self):
        return self._parts.options

    def run(self, noisy, timesteps, text, transformer_options):
        self._parts.options = copy.copy(transformer_options)
        return self.backbone.predict(noisy, timesteps, text)


def _module(**parts):
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


# --- U-Nets ----------------------------------------------------------------------------------------------------------


class UNet(Denoiser):
    """Blocks in the order in which they run, each layer one; the input blocks begin with a convolution."""

    def __init__(self, backbone):
        super().__init__(backbone)
        unet = backbone.denoiser
        self.input_blocks, self.output_blocks = nn.ModuleList([nn.ModuleList([nn.Identity()])]), nn.ModuleList()
        for blocks, level in [(self.input_blocks, b) for b in unet.down_blocks] + [
            (self.output_blocks, b) for b in unet.up_blocks
        ]:
            for layer in range(len(level.resnets)):
                attention = [level.attentions[layer]] if hasattr(level, "attentions") else []
                blocks.append(self._layer(attention, "input" if blocks is self.input_blocks else "output", len(blocks)))
            if getattr(level, "downsamplers", None):
                blocks.append(nn.ModuleList([nn.Identity()]))
        self.middle_block = self._layer(unet.mid_block.attentions, "middle", 0)

    def _layer(self, attentions, kind, number):
        layer = nn.ModuleList([nn.Identity()])
        for attention in attentions:
            layer.append(
                _module(transformer_blocks=nn.ModuleList(_module(attn2=b.attn2) for b in attention.transformer_blocks))
            )
            for index, block in enumerate(attention.transformer_blocks):
                block.attn2.set_processor(CrossAttention(self, (kind, number, index)))
        return layer


class CrossAttention:
    """Calls attn2_replace."""

    def __init__(self, model, block):
        self.model, self.block = model, block

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        options = self.model.options
        replace = options.get("patches_replace", {}).get("attn2", {})
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        block = self.block if self.block in replace else self.block[:2]
        if block not in replace:
            return attn.to_out[0](optimized_attention(q, k, v, attn.heads))
        extra = {name: value for name, value in options.items() if name not in ("patches", "patches_replace")}
        extra |= {"n_heads": attn.heads, "dim_head": q.shape[-1] // attn.heads, "block": self.block[:2]}
        return attn.to_out[0](replace[block](q, k, v, extra))


# --- transformers ----------------------------------------------------------------------------------------------------


class PixArt(Denoiser):
    """Calls no patches."""

    def __init__(self, backbone):
        super().__init__(backbone)
        self.patch_size = backbone.denoiser.config.patch_size
        attentions = [block.attn2 for block in backbone.denoiser.transformer_blocks]
        self.blocks = nn.ModuleList(
            _module(cross_attn=_module(q_linear=a.to_q, proj=a.to_out[0], num_heads=a.heads)) for a in attentions
        )


class Flux(Denoiser):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.patch_size = backbone.patch_size
        model = backbone.denoiser
        self.double_blocks = nn.ModuleList(
            _module(img_attn=_module(norm=_module(key_norm=b.attn.norm_k), proj=b.attn.to_out[0]))
            for b in model.transformer_blocks
        )
        self.single_blocks = nn.ModuleList(
            _module(
                norm=_module(key_norm=b.attn.norm_k), linear2=b.proj_out if hasattr(b, "proj_out") else b.attn.to_out
            )
            for b in model.single_transformer_blocks
        )
        for kind, blocks in (("double", model.transformer_blocks), ("single", model.single_transformer_blocks)):
            for number, block in enumerate(blocks):
                packed = hasattr(block.attn, "to_qkv_mlp_proj")
                block.attn.set_processor((PackedAttention if packed else FluxAttention)(self, kind, number))


class JointAttention:
    """Calls attn1_patch and attn1_output_patch, with the text's rows first."""

    patches_output = True

    def __init__(self, model, kind, number):
        self.model, self.kind, self.number = model, kind, number

    def attend(self, image, text, rotation, mask=None):
        """`image` and `text` are q, k, v [batch, rows, heads, head width], normalised."""
        joint = [torch.cat(parts, 1) for parts in zip(text, image, strict=True)] if text else image
        joint = [rows.transpose(1, 2) for rows in joint]
        patches = self.model.options.get("patches", {})
        options = dict(self.model.options, block_type=self.kind, block_index=self.number)
        if text:
            self.model._parts.words = text[0].shape[1]
        options["img_slice"] = [self.model._parts.words, joint[0].shape[2]]
        q, k, v = joint
        for patch in patches.get("attn1_patch", []):
            out = patch(q, k, v, pe=rotation, attn_mask=mask, extra_options=options)
            q, k, v = out.get("q", q), out.get("k", k), out.get("v", v)
        q, k = (self.rotate(t, rotation, options["img_slice"][0]) for t in (q, k))
        attended = optimized_attention(q, k, v, q.shape[1], mask, skip_reshape=True)
        for patch in patches.get("attn1_output_patch", []) if self.patches_output else []:
            attended = patch(attended, options)
        words = text[0].shape[1] if text else 0
        return attended[:, :words], attended[:, words:]


class FluxAttention(JointAttention):
    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None, **_
    ):
        image = _heads(attn, (attn.to_q, attn.to_k, attn.to_v), hidden_states, attn.norm_q, attn.norm_k)
        if encoder_hidden_states is None:
            return self.attend(image, None, image_rotary_emb)[1]
        layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        text = _heads(attn, layers, encoder_hidden_states, attn.norm_added_q, attn.norm_added_k)
        text, image = self.attend(image, text, image_rotary_emb)
        return attn.to_out[0](image), attn.to_add_out(text)

    def rotate(self, t, rotation, words):
        return apply_rotary_emb(t, rotation)


class PackedAttention(FluxAttention):
    """Of FLUX.2's single blocks."""

    def __call__(self, attn, hidden_states, attention_mask=None, image_rotary_emb=None, **_):
        *qkv, mlp = attn.to_qkv_mlp_proj(hidden_states).tensor_split([attn.inner_dim * i for i in (1, 2, 3)], -1)
        q, k, v = (t.unflatten(-1, (attn.heads, -1)) for t in qkv)
        image = self.attend((attn.norm_q(q), attn.norm_k(k), v), None, image_rotary_emb)[1]
        return attn.to_out(torch.cat([image, attn.mlp_act_fn(mlp)], -1))


class QwenImage(Denoiser):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.patch_size = backbone.patch_size
        self.transformer_blocks = backbone.denoiser.transformer_blocks
        for number, block in enumerate(self.transformer_blocks):
            block.attn.set_processor(QwenAttention(self, "double", number))


class QwenAttention(JointAttention):
    patches_output = False

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        encoder_hidden_states_mask=None,
        attention_mask=None,
        image_rotary_emb=None,
    ):
        mask = encoder_hidden_states_mask
        if mask is not None:
            mask = F.pad(mask, (0, hidden_states.shape[1]), value=True)[:, None, None]
        image = _heads(attn, (attn.to_q, attn.to_k, attn.to_v), hidden_states, attn.norm_q, attn.norm_k)
        layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        text = _heads(attn, layers, encoder_hidden_states, attn.norm_added_q, attn.norm_added_k)
        text, image = self.attend(image, text, image_rotary_emb, mask)
        return attn.to_out[0](image), attn.to_add_out(text)

    def rotate(self, t, rotation, words):
        parts = zip((t[:, :, :words], t[:, :, words:]), reversed(rotation), strict=True)
        turned = [apply_rotary_emb_qwen(p.transpose(1, 2), r, use_real=False) for p, r in parts]
        return torch.cat(turned, 1).transpose(1, 2)


def _heads(attn, layers, rows, query_norm, key_norm):
    q, k, v = (layer(rows).unflatten(-1, (attn.heads, -1)) for layer in layers)
    return query_norm(q), key_norm(k), v


DENOISERS = {
    "UNet2DConditionModel": UNet,
    "PixArtTransformer2DModel": PixArt,
    "FluxTransformer2DModel": Flux,
    "Flux2Transformer2DModel": Flux,
    "QwenImageTransformer2DModel": QwenImage,
}


# --- what nodes import -----------------------------------------------------------------------------------------------


class Socket:
    """An input or output of a node, with what its type takes besides an id."""

    def __init__(self, io_type, id=None, **options):
        self.io_type, self.id, self.options = io_type, id, options

    @property
    def is_widget(self):
        """Whether people set it on the node, as numbers, texts and choices."""
        return self.io_type in ("STRING", "FLOAT", "INT", "BOOLEAN", "COMBO")


def _io_type(name):
    return SimpleNamespace(
        Input=lambda id, *args, **options: Socket(name, id, **options), Output=lambda *a, **o: Socket(name, **o)
    )


class Schema(SimpleNamespace):
    def __init__(self, node_id, display_name, category, inputs, outputs, description="", is_output_node=False):
        super().__init__(**{name: value for name, value in locals().items() if name not in ("self", "__class__")})


class ComfyNode:
    pass


class NodeOutput:
    def __init__(self, *args):
        self.args = args


class ComfyExtension:
    pass


def install(monkeypatch, folder):
    """Puts the modules that nodes import into Python; ComfyUI's models and outputs are in `folder`."""
    names = {"Image": "IMAGE", "Mask": "MASK", "Model": "MODEL", "String": "STRING", "Float": "FLOAT"}
    types = {name: _io_type(value) for name, value in {**names, "Combo": "COMBO", "Boolean": "BOOLEAN"}.items()}
    io = SimpleNamespace(**types, Custom=_io_type, Schema=Schema, ComfyNode=ComfyNode, NodeOutput=NodeOutput)
    modules = {
        "comfy_api.latest": {"ComfyExtension": ComfyExtension, "io": io},
        "comfy.ldm.modules.attention": {"optimized_attention": optimized_attention},
        "comfy.model_management": {"get_torch_device": lambda: torch.device("cpu")},
        "folder_paths": {"models_dir": str(folder / "models"), "get_output_directory": lambda: str(folder / "output")},
    }
    for name, contents in modules.items():
        for parent in _parents(name):
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)


def _parents(name):
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
