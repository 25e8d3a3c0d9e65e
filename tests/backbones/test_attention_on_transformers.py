"""Eq. 13 by each attention contract inside real diffusers transformers, against an attention written out in float64."""

import copy

import pytest
import torch

import tiny_transformers
from a4a.backbones.attention import ImageRows
from a4a.backbones.base import Backbone, families, find_family
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.injection import attach
from tiny_transformers import HEAD_WIDTH, HEADS, PATCHES, TRANSFORMERS, WIDTH, WORDS

IMAGE_ROWS = {
    ("flux", "single-last"): slice(WORDS, WORDS + PATCHES),
    ("chroma", "single-last"): slice(WORDS, WORDS + PATCHES),
    ("flux2", "packed"): slice(WORDS, WORDS + PATCHES),
    ("cogview4", "single-last"): slice(WORDS, WORDS + PATCHES),
    ("z-image", "single-first"): slice(0, PATCHES),  # of 32, the rest is padding
    ("ernie-image", "single-first"): slice(0, PATCHES),
}
"""Where text and image share one sequence; elsewhere the module's query has image rows alone."""

NORM_OVER_ALL_HEADS = {"wan"}


class Family(Backbone):
    """Stands in for the family of a transformer that has none yet."""

    denoisers = ()
    rows: ImageRows | None = None

    @classmethod
    def image_rows(cls, denoiser, inputs):
        return cls.rows


@pytest.fixture(autouse=True)
def _families(monkeypatch):
    known = dict(families())
    monkeypatch.setattr(Backbone, "families", known)
    for name, build in TRANSFORMERS.items():
        tiny = build()
        if find_family(tiny.model) is None and tiny.image_rows:
            rows = ImageRows(tiny.image_rows)
            known[type(tiny.model).__name__] = type(name, (Family,), {"rows": rows, "denoisers": ()})


def features(tiny, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return tuple(torch.randn(2, 3, s.width, generator=generator) for s in tiny.sites)

    return SiteFeatures(draw(), draw())


def attached(tiny, scale=1.0, **options):
    return attach(tiny.model, tiny.sites, features(tiny), scale, **options)


@pytest.fixture(params=list(TRANSFORMERS))
def named(request):
    return request.param, TRANSFORMERS[request.param]()


class Record:
    """What enters and leaves some modules during one call of a transformer."""

    def __init__(self, tiny, modules):
        self.inputs, self.outputs = {}, {}
        handles = [m.register_forward_hook(self._keep(name)) for name, m in modules.items() if m is not None]
        with torch.no_grad():
            self.result = tiny()
        for handle in handles:
            handle.remove()

    def _keep(self, name):
        def hook(module, args, output):
            self.inputs.setdefault(name, args[0] if args else None)
            self.outputs.setdefault(name, output)

        return hook


def parts(tiny, site):
    """The attention module of a site, what makes its query, and what mixes its heads, if it does that itself."""
    module = tiny.model.get_submodule(site.name)
    out = getattr(module, "to_out", None)
    query = module.to_qkv_mlp_proj if site.attention == "packed" else module.to_q
    return {"module": module, "query": query, "out": out[0] if isinstance(out, torch.nn.ModuleList) else out}


def image_attention(query, key, value, module, over_all_heads):
    """Attention(q, k^, v^) of one row, head by head, in float64."""
    norms = [copy.deepcopy(n).double() if n is not None else lambda t: t for n in (module.norm_q, module.norm_k)]
    query, key, value = query.double(), key.double(), value.double()
    if over_all_heads:
        query, key = norms[0](query), norms[1](key)
    heads = []
    for h in range(HEADS):
        q, k, v = (t[:, h * HEAD_WIDTH : (h + 1) * HEAD_WIDTH] for t in (query, key, value))
        if not over_all_heads:
            q, k = norms[0](q), norms[1](k)
        heads.append(torch.softmax(q @ k.T / HEAD_WIDTH**0.5, dim=-1) @ v)
    return torch.cat(heads, dim=-1)


def test_each_site_adds_image_attention_to_the_images_rows_before_heads_are_mixed(named):
    name, tiny = named
    for i, site in enumerate(tiny.sites):
        modules = parts(tiny, site)
        plain = Record(tiny, modules)
        with attached(tiny, [0.7 * (j == i) for j in range(len(tiny.sites))]):
            found = Record(tiny, modules)

        given, output = features(tiny), modules["out"]
        rows = IMAGE_ROWS.get((name, site.attention), slice(None))
        attended = plain.inputs["out"] if output is not None else plain.outputs["module"]
        expected = attended.double().clone()
        for row in range(2):
            query = plain.outputs["query"][row, rows, :WIDTH]
            key, value = given.keys[i][row], given.values[i][row]
            image = image_attention(query, key, value, modules["module"], name in NORM_OVER_ALL_HEADS)
            expected[row, rows, :WIDTH] += 0.7 * image
        mixed = copy.deepcopy(output).double()(expected) if output is not None else expected
        seen = found.outputs["out"] if output is not None else found.outputs["module"]
        torch.testing.assert_close(seen.double(), mixed, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found.result, plain.result, atol=1e-4)


def test_the_plain_transformer_bit_for_bit_at_scale_zero_and_after_detach(named):
    _, tiny = named
    plain = tiny()
    with attached(tiny, 0.0) as injection:
        assert torch.equal(tiny(), plain)
        injection.set(features(tiny))
        assert not torch.allclose(tiny(), plain, atol=1e-4)
        injection.clear()
        assert torch.equal(tiny(), plain)
    assert torch.equal(tiny(), plain)


def test_gradients_are_those_of_finite_differences(named):
    """Also where a model rotates its queries in place, after the proxy has remembered them."""
    _, tiny = named
    given = features(tiny)
    direction = features(tiny, seed=1)

    def loss(step):
        moved = SiteFeatures(
            tuple(k + step * d for k, d in zip(given.keys, direction.keys, strict=True)),
            tuple(v + step * d for v, d in zip(given.values, direction.values, strict=True)),
        )
        with attach(tiny.model, tiny.sites, moved):
            return tiny().double().square().mean()

    step = torch.zeros((), requires_grad=True)
    loss(step).backward()
    with torch.no_grad():
        difference = (loss(1e-2) - loss(-1e-2)) / 2e-2
    torch.testing.assert_close(step.grad.double(), difference, atol=1e-3, rtol=3e-2)


@pytest.mark.parametrize("name", sorted({name for name, _ in IMAGE_ROWS}))
def test_one_sequence_without_a_family_that_knows_the_image_rows_is_an_input_error(name, monkeypatch):
    monkeypatch.setattr("a4a.injected_denoiser.find_family", lambda model: None)
    tiny = TRANSFORMERS[name]()
    message = "attention holds text and image in one sequence"
    with pytest.raises(InputError, match=message), attach(tiny.model, tiny.sites, features(tiny)):
        tiny()


@pytest.mark.parametrize("name", ["flux", "qwen-image", "sd3"])  # diffusers' fused processor forgets SD3.5's norms
def test_projections_that_diffusers_has_fused_give_the_same_image(name):
    tiny = TRANSFORMERS[name]()
    with attached(tiny):
        expected = tiny()
        tiny.model.fuse_qkv_projections()
        torch.testing.assert_close(tiny(), expected, atol=1e-5, rtol=1e-4)
    fused = tiny()
    with attached(tiny):
        torch.testing.assert_close(tiny(), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(tiny(), fused)


def test_heads_that_share_keys_see_the_same_image_keys():
    """Grouped queries, as in Lumina2: two query heads, one key head."""
    torch.manual_seed(0)
    module = tiny_transformers.sana().model.transformer_blocks[0].attn2
    site = tiny_transformers.Site("0", HEAD_WIDTH, 0.0)
    key, value = torch.randn(1, 3, HEAD_WIDTH), torch.randn(1, 3, HEAD_WIDTH)
    hidden, text = torch.randn(1, 6, WIDTH), torch.randn(1, WORDS, WIDTH)
    module.to_k, module.to_v = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
    plain = module(hidden, encoder_hidden_states=text)
    with attach(torch.nn.ModuleList([module]), (site,), SiteFeatures((key,), (value,))):
        found = module(hidden, encoder_hidden_states=text)
    twice = (torch.cat([t[0]] * HEADS, dim=-1) for t in (key, value))
    image = image_attention(module.to_q(hidden)[0], *twice, module, False)
    mixed = torch.nn.functional.linear(image.float(), module.to_out[0].weight)
    torch.testing.assert_close(found - plain, mixed[None], atol=1e-5, rtol=1e-4)
