"""What injection promises on every tiny pipeline, seen from outside: what the model itself attends with is captured.

`tests/test_injection.py` has what is asked of `attach` alone, `tests/pipeline` of calls of a pipeline.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerAxis, quantize_

import tiny_models
from a4a.adapters.a4a import A4A
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import backbone_for
from a4a.backbones.attention import contract_of
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.injection import attach
from a4a.pipeline import ImagePromptPipeline

TOKENS, SCALE = 3, 0.7


@pytest.fixture
def backbone(pipe):
    return backbone_for(pipe)


@pytest.fixture
def own(pipe):
    """A backbone whose denoiser the test may change."""
    return backbone_for(tiny_models.with_own_denoiser(pipe))


def draw_features(backbone, rows):
    generator = torch.Generator().manual_seed(0)
    draws = [[torch.randn(rows, TOKENS, s.width, generator=generator) for s in backbone.sites] for _ in range(2)]
    return SiteFeatures(*map(tuple, draws))


# --- query, rows and heads -------------------------------------------------------------------------------------------


class Capture:
    """One prediction, and at each site: the query that attention is called with, what leaves the query projection, and
    what enters and leaves the output projection.

    `isolated` attention gives zeros, so that no row of a sequence learns of another.
    """

    def __init__(self, backbone, inputs, isolated=False):
        self.queries, self.projected, self.attended, self.mixed = {}, {}, {}, {}
        self.isolated, self.running = isolated, None
        handles = [h for site in backbone.sites for h in self._watch(backbone.denoiser, site)]
        stock = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = self._spy(stock)
        try:
            with torch.no_grad():
                self.result = backbone.predict(*inputs)
        finally:
            F.scaled_dot_product_attention = stock
            for handle in handles:
                handle.remove()

    def _spy(self, stock):
        def attention(query, key, value, *args, **kwargs):
            if self.running is not None:
                self.queries.setdefault(self.running, query)
            found = stock(query, key, value, *args, **kwargs)
            return torch.zeros_like(found) if self.isolated else found

        return attention

    def _watch(self, denoiser, site):
        contract, module = contract_of(site.attention), denoiser.get_submodule(site.name)
        output = getattr(module, contract.output, None)
        output = output[0] if isinstance(output, nn.ModuleList) else output

        def start(*_):
            self.running = site.name

        def stop(_module, _args, result):
            self.running = None
            if output is None:
                self.attended[site.name] = self.mixed[site.name] = result

        def keep(_layer, args, result):
            self.attended[site.name], self.mixed[site.name] = args[0], result

        def project(_layer, _args, result):
            self.projected.setdefault(site.name, contract.query_columns(module, contract.query, result))

        yield module.register_forward_pre_hook(start)
        yield module.register_forward_hook(stop)
        yield getattr(module, contract.query).register_forward_hook(project)
        if output is not None:
            yield output.register_forward_hook(keep)


def normed_heads(t, norm, heads):
    """[rows, width] as a list of [rows, head width] in float64, normalised over each head or over all of them."""
    norm = copy.deepcopy(norm).double() if norm is not None else nn.Identity()
    t = t.double()
    weight = getattr(norm, "weight", None)
    over_all = weight is not None and len(weight) == t.shape[-1] != t.shape[-1] // heads
    parts = (norm(t) if over_all else t).chunk(heads, dim=-1)
    return list(parts) if over_all else [norm(part) for part in parts]


def image_attention(queries, keys, values):
    """Attention(q, k^, v^), head by head; several heads of the query may share one of the keys."""
    share = len(queries) // len(keys)
    return torch.cat(
        [
            torch.softmax(q @ keys[h // share].T / q.shape[-1] ** 0.5, dim=-1) @ values[h // share]
            for h, q in enumerate(queries)
        ],
        dim=-1,
    )


def changed(a, b, sample):
    """Indices of the rows of a sample's sequence that differ, of [batch, rows, width]."""
    return (a[sample] - b[sample]).abs().amax(-1).nonzero().flatten()


def test_query_rows_and_heads_at_every_site_are_the_models_own(backbone):
    """The added part is written out in float64 from the projected query; the query that the model itself calls attention
    with has the same length in each head, also where positions have rotated it."""
    noisy, timesteps, text = inputs = tiny_models.inputs(backbone, 2)
    features = draw_features(backbone, 2)
    plain = Capture(backbone, inputs)
    apart, apart_too = (Capture(backbone, (n, timesteps, text), isolated=True) for n in (noisy, noisy + 1))
    with attach(backbone.denoiser, backbone.sites, features, SCALE):
        whole = Capture(backbone, inputs)
    for i, site in enumerate(backbone.sites):
        with attach(
            backbone.denoiser, backbone.sites, features, [SCALE * (j == i) for j in range(len(backbone.sites))]
        ):
            found = Capture(backbone, inputs)
        contract, module = contract_of(site.attention), backbone.denoiser.get_submodule(site.name)
        own, projected = plain.queries[site.name], plain.projected[site.name]
        heads = own.shape[1]
        norms = [getattr(module, name, None) for name in (contract.query_norm, contract.key_norm)]
        sequences = [c.queries[site.name].transpose(1, 2).flatten(2) for c in (apart, apart_too)]
        image = torch.zeros_like(plain.attended[site.name], dtype=torch.float64)
        for row in range(2):
            rows = changed(found.attended[site.name], plain.attended[site.name], row)
            picture = changed(apart.projected[site.name], apart_too.projected[site.name], row)
            assert set(picture.tolist()) <= set(rows.tolist()), "rows of the picture get no features"
            if contract.image_rows != "all":
                assert len(rows) < projected.shape[1], "rows of the text get features"
            in_attention = changed(*sequences, row)
            assert len(in_attention) == len(picture)
            queries = normed_heads(projected[row], norms[0], heads)
            for h in range(heads):
                lengths = own[row, h, in_attention].double().norm(dim=-1)
                torch.testing.assert_close(queries[h][picture].norm(dim=-1), lengths, atol=1e-5, rtol=1e-4)
            key_heads = site.width // own.shape[-1]
            keys = normed_heads(features.keys[i][row], norms[1], key_heads)
            values = normed_heads(features.values[i][row], None, key_heads)
            added = image_attention([q[rows] for q in queries], keys, values)
            image[row, rows, : added.shape[-1]] = added
        expected = plain.attended[site.name].double() + SCALE * image
        torch.testing.assert_close(found.attended[site.name].double(), expected, atol=1e-5, rtol=1e-4)
        assert not torch.equal(found.result, plain.result)
    assert not torch.allclose(whole.result, plain.result, atol=1e-3)


# --- guidance --------------------------------------------------------------------------------------------------------


def denoised_rows(prompted, prompt, photo):
    """Every row that the denoiser gives in a call of one step, whether guidance is one forward or two."""
    rows = []

    def keep(_module, _args, output):
        found = output if isinstance(output, torch.Tensor) else output[0]
        rows.extend(row.clone() for row in found)

    handle = prompted.backbone.denoiser.register_forward_hook(keep)
    tiny_models.call(prompted, prompt, image_prompt_embeds=photo, num_inference_steps=1)
    handle.remove()
    return rows


def same_rows(a, b):
    return [torch.equal(x, y) for x, y in zip(a, b, strict=True)]


def test_guidance_gives_the_reference_to_the_rows_of_the_prompt_alone(pipe):
    """An unconditional row is one that the prompt doesn't change: no reference may change it either."""
    prompted = ImagePromptPipeline(pipe, tiny_models.ip_adapter(pipe))
    first, second = tiny_models.embeds(seed=1), tiny_models.embeds(seed=2)
    rows = denoised_rows(prompted, "a cat on a beach", first)
    unconditional = same_rows(rows, denoised_rows(prompted, "a red dog", first))
    assert not all(unconditional)
    assert unconditional == same_rows(rows, denoised_rows(prompted, "a cat on a beach", second))


# --- starting values of quantised models -----------------------------------------------------------------------------


EIGHT_BITS = Int8WeightOnlyConfig()
FOUR_BITS = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerAxis(0))


@pytest.mark.parametrize(("config", "steps"), [(EIGHT_BITS, 127), (FOUR_BITS, 7)], ids=["8 bits", "4 bits"])
def test_adapters_start_from_quantised_text_projections(own, config, steps):
    plain = copy.deepcopy(own.text_projections())
    for site in own.sites:
        module = own.denoiser.get_submodule(site.name)
        quantize_(module, config, lambda m, _: isinstance(m, nn.Linear))
    text = own.text_projections()
    adapter = IPAdapter.from_denoiser(own.sites, text, {"image_embed_dim": tiny_models.EMBED})
    transfer = A4A.from_source(adapter, own.sites, text, heads=2, rounds=0)
    starts = zip((adapter.to_k, adapter.to_v), transfer.mapping.alignments, plain, strict=True)
    for layers, alignment, exact in starts:
        for layer, aligned, projection in zip(layers, alignment.linears.each(), exact, strict=True):
            step = projection.weight.abs().amax(1, keepdim=True) / steps
            assert ((layer.weight - projection.weight).abs() <= 0.6 * step).all()
            assert torch.equal(layer.weight, aligned.weight)
            assert not torch.equal(layer.weight, projection.weight)
            if projection.bias is not None:
                torch.testing.assert_close(aligned.bias, projection.bias, atol=1e-6, rtol=1e-5)


def test_a_text_projection_that_computes_nothing_is_refused_in_a_sentence(own):
    site = own.sites[0]
    broken = own.text_projections()[0][0]
    broken.weight = nn.Parameter(broken.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(InputError, match=f"the text keys of {site.name}, a Linear, cannot be dequantised .*random"):
        own.text_projections()
