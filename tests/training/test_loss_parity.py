"""One training step against a second statement of it, written here from the descriptions alone.

IP-Adapter's training (tencent-ailab/IP-Adapter, `tutorial_train.py`, `tutorial_train_sdxl.py`): text as the last (SD1.5) or
penultimate (SDXL) hidden states of the text encoders; original size, crop and target size as SDXL's `time_ids`; noisy
latents by the model's schedule; image tokens beside the text at every cross-attention, each with keys and values of its
own; the mean squared error of the noise; a dropped image is a zero embedding, a dropped text the empty prompt. PixArt
is trained the same way on its own inputs. A4A's features by eq. 7 to 12. Nothing below calls a4a but for the names and
weights of parameters: text encoding, schedule, attention, features and loss are restated with plain tensor operations.

Where ours differs from IP-Adapter's script on purpose: SDXL's empty prompt is zeros, since that is what the published
pipeline's guidance has (`force_zeros_for_empty_prompt`).
"""

import math

import pytest
import torch
import torch.nn.functional as F

import tiny_models
from a4a.backbones import backbone_for
from a4a.training.denoising import ConditionDropout, Denoising, ObjectiveConfig

PROMPTS = ["a red cat", "a small dog", "two birds"]
LATENT_SIDE = tiny_models.SIDE
SIZES = {
    "original_size": [[480, 640], [1023, 700], [16, 16]],
    "crop_top_left": [[0, 107], [61, 0], [0, 0]],
    "target_size": [[16, 16], [16, 24], [32, 16]],
}
"""Of the training images in pixels, height before width: conditions of SDXL and of the 1024-pixel PixArt."""
LETTER = {"residual": False, "warm_start": False, "sharing": "width"}
"""A4A as the paper has it."""


# --- the restatement --------------------------------------------------------------------------------------------------


def attention(query, keys, values, heads, bias=None):
    """softmax(q k^T / sqrt(width of a head)) v, head by head: [batch, tokens, heads x width]."""
    query, keys, values = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, keys, values))
    scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if bias is not None:
        scores = scores + bias[:, None]
    return (scores.softmax(-1) @ values).transpose(1, 2).flatten(-2)


class TextAndImageAttention:
    """An attention processor: cross-attention to text, plus that to the image's own keys and values (eq. 13)."""

    def __init__(self, keys, values):
        self.keys, self.values = keys, values

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        query = attn.to_q(hidden_states)
        text = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        mixed = attention(query, *text, attn.heads, attention_mask)
        mixed = mixed + attention(query, self.keys, self.values, attn.heads)
        return attn.to_out[0](mixed)


def encoded_text(pipe, name, prompts):
    """Prompts as IP-Adapter's scripts and PixArt's training encode them."""

    def tokens(tokenizer, length):
        return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")

    def clip(tokenizer, encoder):
        ids = tokens(tokenizer, tokenizer.model_max_length).input_ids
        return encoder(ids, output_hidden_states=True)

    with torch.no_grad():
        if name == "sd15":
            return {"states": clip(pipe.tokenizer, pipe.text_encoder).last_hidden_state}
        if name == "sdxl":
            first, second = clip(pipe.tokenizer, pipe.text_encoder), clip(pipe.tokenizer_2, pipe.text_encoder_2)
            states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
            return {"states": states, "pooled": second.text_embeds}
        found = tokens(pipe.tokenizer, min(120, pipe.tokenizer.model_max_length))
        states = pipe.text_encoder(found.input_ids, attention_mask=found.attention_mask).last_hidden_state
        return {"states": states, "mask": found.attention_mask}


def empty_text(pipe, name):
    found = encoded_text(pipe, name, [""])
    return {key: torch.zeros_like(t) for key, t in found.items()} if name == "sdxl" else found


def noised(pipe, latents, noise, timesteps):
    """sqrt(a_t) x0 + sqrt(1 - a_t) eps, with a_t the product of 1 - beta and the root of beta linear in t."""
    config = pipe.scheduler.config
    betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps).square()
    signal = (1 - betas).cumprod(0)[timesteps].view(-1, 1, 1, 1)
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


def predicted_noise(denoiser, name, noisy, timesteps, text):
    original, crop, target = (torch.tensor(size, dtype=torch.float) for size in SIZES.values())
    if name == "pixart":
        output = denoiser(
            noisy,
            encoder_hidden_states=text["states"],
            encoder_attention_mask=text["mask"],
            timestep=timesteps,
            added_cond_kwargs={"resolution": original, "aspect_ratio": target[:, :1] / target[:, 1:]},
        )
        return output.sample[:, : noisy.shape[1]]  # the rest is the learned variance
    added = None
    if name == "sdxl":
        added = {"text_embeds": text["pooled"], "time_ids": torch.cat([original, crop, target], dim=1)}
    return denoiser(noisy, timesteps, text["states"], added_cond_kwargs=added).sample


def ip_adapter_features(weights, embeds, text_width, sites, prefix=""):
    """Keys and values of every site: the linear layers of the condition LN(W y + b), cut into tokens."""
    tokens = F.linear(embeds, weights[f"{prefix}image_proj.proj.weight"], weights[f"{prefix}image_proj.proj.bias"])
    tokens = tokens.reshape(len(embeds), -1, text_width)
    norm = (weights[f"{prefix}image_proj.norm.{part}"] for part in ("weight", "bias"))
    tokens = F.layer_norm(tokens, (text_width,), *norm)
    return [[tokens @ weights[f"{prefix}to_{half}.{i}.weight"].T for i in range(sites)] for half in "kv"]


def a4a_features(weights, adapter, embeds):
    """Eq. 7 to 12 on the keys of all base sites, and with other weights on their values."""
    source = adapter.source
    base = ip_adapter_features(weights, embeds, source.image_projection().text_width, len(source.sites), "source.")
    return [
        mapped(weights, adapter, half, f"mapping.{name}") for half, name in zip(base, ("keys", "values"), strict=True)
    ]


def mapped(weights, adapter, features, chain):
    options = adapter.config

    def layer(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    def each(stage, rows, widths):
        """A linear layer for each site, or for each distinct width in the order of their first appearance."""
        distinct = list(dict.fromkeys(widths))
        numbers = range(len(rows)) if options["sharing"] == "site" else [distinct.index(w) for w in widths]
        return [layer(f"{chain}.{stage}.linears.layers.{n}", row) for n, row in zip(numbers, rows, strict=True)]

    coupling = torch.stack(each(0, features, [s.width for s in adapter.source.sites]), dim=1)
    hat = weights[f"{chain}.1.latents"].expand(len(coupling), -1, -1, -1)
    if options["warm_start"]:
        mixture = weights[f"{chain}.1.mixture"]
        hat = hat + torch.einsum("ub,zbnd->zund", mixture, norm(f"{chain}.1.norm", coupling))
    sites, (hat, coupling) = hat.shape[1], (t.flatten(1, 2) for t in (hat, coupling))
    for number in range(options["rounds"]):
        part = f"{chain}.1.rounds.{number}"
        queries = norm(f"{part}.norm_mapped", hat)
        context = torch.cat([queries, norm(f"{part}.norm_reference", coupling)], dim=1)
        q, k, v = (layer(f"{part}.w_{i}", x) for i, x in ((1, queries), (2, context), (3, context)))
        attended = layer(f"{part}.w_out", attention(q, k, v, options["heads"]))
        hat = hat + attended if options["residual"] else attended
        wide = F.gelu(layer(f"{part}.ffn.1", norm(f"{part}.ffn.0", hat)))
        hat = hat + layer(f"{part}.ffn.3", wide) if options["residual"] else layer(f"{part}.ffn.3", wide)
    rows = hat.unflatten(1, (sites, -1)).unbind(1)
    return each(2, rows, [s.width for s in adapter.sites])


# --- the comparison ---------------------------------------------------------------------------------------------------


def reference_step(pipe, name, adapter, sample, seen):
    """Loss, and the gradient of every trained weight, of one step with what `seen` was drawn."""
    backbone = backbone_for(pipe)  # for the names of the sites alone
    weights = {key: p.detach().clone().requires_grad_(p.requires_grad) for key, p in adapter.named_parameters()}
    embeds = torch.zeros_like(sample["embeds"]) if seen["no image"] else sample["embeds"]
    if hasattr(adapter, "source"):
        keys, values = a4a_features(weights, adapter, embeds)
    else:
        keys, values = ip_adapter_features(weights, embeds, adapter.text_width, len(adapter.sites))
    for site, key, value in zip(backbone.sites, keys, values, strict=True):
        backbone.denoiser.get_submodule(site.name).set_processor(TextAndImageAttention(key, value))
    text = encoded_text(pipe, name, PROMPTS)
    if seen["no text"]:
        text = {key: t.expand(len(PROMPTS), *t.shape[1:]) for key, t in empty_text(pipe, name).items()}
    noisy = noised(pipe, sample["latents"], seen["noise"], seen["timesteps"])
    torch.testing.assert_close(noisy, seen["noisy"])
    predicted = predicted_noise(backbone.denoiser, name, noisy, seen["timesteps"], text)
    loss = (predicted - seen["noise"]).square().mean()
    loss.backward()
    return loss.detach(), {key: w.grad for key, w in weights.items() if w.requires_grad}


def our_step(pipe, adapter, sample, drop, **options):
    """Loss and gradients of `Denoising`, and what it drew: noise, time steps, noisy latents."""
    objective = Denoising(backbone_for(pipe), adapter, ObjectiveConfig(dropping=drop, **options))
    seen = {"no image": drop.image + drop.both > 0, "no text": drop.text + drop.both > 0}

    def remember(_, arguments, named):
        seen["noisy"] = arguments[0].detach()
        seen["timesteps"] = named["timestep"] if "timestep" in named else arguments[1]

    hook = objective.denoiser.register_forward_pre_hook(remember, with_kwargs=True)
    torch.manual_seed(0)
    loss = objective(sample)
    loss.backward()
    hook.remove()
    objective.detach()
    torch.manual_seed(0)
    torch.rand(len(PROMPTS))  # which conditions are dropped is drawn first
    seen["noise"] = torch.randn_like(sample["latents"])
    return loss.detach(), {key: p.grad for key, p in adapter.named_parameters() if p.requires_grad}, seen


def compare(name, make_adapter, drop, request, **options):
    pipe = tiny_models.pixart(128) if name == "pixart" else request.getfixturevalue(name)
    pipe = tiny_models.with_own_denoiser(pipe)
    adapter = make_adapter(pipe, request)
    backbone = backbone_for(pipe)
    generator = torch.Generator().manual_seed(3)
    sample = {
        "latents": torch.randn(len(PROMPTS), backbone.latent_channels, LATENT_SIDE, LATENT_SIDE, generator=generator),
        "embeds": torch.randn(len(PROMPTS), tiny_models.EMBED, generator=generator),
        **{f"text.{key}": t for key, t in backbone.encode_text(PROMPTS).items()},
        **{key: torch.tensor(size) for key, size in SIZES.items()},
    }
    loss, gradients, seen = our_step(pipe, adapter, sample, drop, **options)
    expected_loss, expected = reference_step(pipe, name, adapter, sample, seen)
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    check_gradients(gradients, expected)


def check_gradients(found, expected):
    """All in all within 1e-5, each tensor within a few roundings of float32.

    The gradient of a bias that all keys of a site share is zero: softmax does not see it. Rounding is all that is left.
    """
    assert found.keys() == expected.keys()
    norm = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
    errors = {name: float((found[name] - g).norm()) for name, g in expected.items()}
    assert math.hypot(*errors.values()) < 1e-5 * norm
    for name, error in errors.items():
        assert error < 3e-5 * float(expected[name].norm()) + 1e-6 * norm, name


def plain(pipe, request):
    return tiny_models.ip_adapter(pipe).requires_grad_(True)


def a4a_letter(pipe, request):
    source = tiny_models.ip_adapter(request.getfixturevalue("sd15"))
    return tiny_models.shaken(tiny_models.a4a(source, pipe, rounds=2, **LETTER), 0.05)


def a4a_default(pipe, request):
    source = tiny_models.ip_adapter(request.getfixturevalue("sd15"))
    return tiny_models.shaken(tiny_models.a4a(source, pipe, rounds=2), 0.05)


models = pytest.mark.parametrize("name", ["sd15", "sdxl", "pixart"])
NOTHING, IMAGE, TEXT, BOTH = (ConditionDropout(*(float(i == n) for i in range(3))) for n in (None, 0, 1, 2))


@models
@pytest.mark.parametrize("drop", [NOTHING, BOTH], ids=["nothing dropped", "image and text dropped"])
def test_a_step_of_an_ip_adapter_is_that_of_its_authors(name, drop, request):
    compare(name, plain, drop, request)


@pytest.mark.parametrize("drop", [IMAGE, TEXT], ids=["image dropped", "text dropped"])
def test_one_condition_is_dropped_without_the_other(drop, request):
    compare("sdxl", plain, drop, request)


@models
@pytest.mark.parametrize("method", [a4a_letter, a4a_default])
def test_a_step_of_a4a_is_that_of_the_equations(name, method, request):
    compare(name, method, NOTHING, request)


def test_gradient_checkpointing_does_not_change_the_step(request):
    compare("sdxl", a4a_default, NOTHING, request, gradient_checkpointing=True)
