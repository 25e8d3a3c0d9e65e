"""IP-Adapter (eq. 4 to 6) and A4A: features, initialisation, saving, and refusal of other models."""

import json

import pytest
import torch
from torch import nn

import tiny_models
from a4a.adapters.a4a import A4A
from a4a.adapters.base import sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.whitening import shrunk_covariance
from a4a.backbones import backbone_for
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.method.linears import LowRankLinear
from a4a.pipeline import ImagePromptPipeline
from a4a.transfer.config import A4AConfig, IPAdapterConfig


@pytest.fixture
def source(sd15):
    return tiny_models.ip_adapter(sd15)


def same(a, b):
    return all(map(torch.equal, a.keys + a.values, b.keys + b.values))


# --- IP-Adapter ----------------------------------------------------------------------------------------------------


def test_ip_adapter_computes_equations_4_to_6(source):
    state, y = {k: t.double() for k, t in source.state_dict().items()}, tiny_models.embeds(2)
    for i in range(2):
        c = (state["image_proj.proj.weight"] @ y[i].double() + state["image_proj.proj.bias"]).reshape(source.tokens, -1)
        c = (c - c.mean(1, keepdim=True)) / (c.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        c = c * state["image_proj.norm.weight"] + state["image_proj.norm.bias"]
        found = source(y)
        for s in range(len(source.sites)):
            torch.testing.assert_close(found.keys[s][i].double(), c @ state[f"to_k.{s}.weight"].T, atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(
                found.values[s][i].double(), c @ state[f"to_v.{s}.weight"].T, atol=1e-4, rtol=1e-5
            )


def test_an_untrained_ip_adapter_starts_from_the_models_own_projections(pipe):
    backbone = backbone_for(pipe)
    keys, values = backbone.text_projections()
    adapter = IPAdapter.from_denoiser(
        backbone.sites, (keys, values), {"image_embed_dim": tiny_models.EMBED, "tokens": 3}
    )
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        assert torch.equal(adapter.to_k[i].weight, key.weight)
        assert torch.equal(adapter.to_v[i].weight, value.weight)
    assert adapter(tiny_models.embeds(2)).tokens == 3


def test_the_unconditional_embedding_is_zero(source):
    assert torch.equal(source.unconditional(tiny_models.embeds(2)), torch.zeros(2, tiny_models.EMBED))


# --- A4A -----------------------------------------------------------------------------------------------------------


def test_a_transfer_maps_the_sources_features(source, pipe):
    adapter = tiny_models.shaken(tiny_models.a4a(source, pipe))
    for a, b in zip(adapter.source.parameters(), source.parameters(), strict=True):
        a.data.copy_(b)
    embeds = tiny_models.embeds(2)
    assert same(adapter(embeds), adapter.mapping(source(embeds)))
    adapter(embeds).check(backbone_for(pipe).sites, "the model")
    assert torch.equal(adapter.unconditional(embeds), source.unconditional(embeds))


def test_a_transfer_copies_its_source(source, sdxl):
    adapter = tiny_models.a4a(source, sdxl)
    assert {k: t.tolist() for k, t in adapter.source.state_dict().items()} == {
        k: t.tolist() for k, t in source.state_dict().items()
    }
    with torch.no_grad():
        adapter.source.image_proj.proj.weight.zero_()
    assert source.image_proj.proj.weight.abs().max() > 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alignment_rank": 3},
        {"rounds": 2, "sharing": "width", "warm_start": False, "residual": False, "d_scm": 192, "inner": 32},
    ],
)
def test_a_saved_transfer_loads_with_the_same_features(source, pipe, tmp_path, options):
    adapter = tiny_models.shaken(tiny_models.a4a(source, pipe, **options))
    adapter.save_pretrained(tmp_path)
    again = A4A.from_pretrained(tmp_path)
    assert same(again(tiny_models.embeds(2)), adapter(tiny_models.embeds(2)))
    assert again.sites == adapter.sites == backbone_for(pipe).sites
    assert (again.image_embed_dim, again.tokens) == (adapter.image_embed_dim, adapter.tokens)
    mine, theirs = (
        json.loads(json.dumps({k: v for k, v in a.config.items() if not k.startswith("_")})) for a in (adapter, again)
    )
    assert mine == theirs


def test_the_configuration_does_not_tell_where_the_source_came_from(source, sdxl, tmp_path):
    source.save_pretrained(tmp_path / "secret")
    tiny_models.a4a(IPAdapter.from_pretrained(tmp_path / "secret"), sdxl).save_pretrained(tmp_path / "a4a")
    assert "secret" not in (tmp_path / "a4a" / "config.json").read_text()


def test_a_saved_ip_adapter_loads_with_the_same_features(source, tmp_path):
    source.save_pretrained(tmp_path)
    again = IPAdapter.from_pretrained(tmp_path)
    assert same(again(tiny_models.embeds(2)), source(tiny_models.embeds(2)))
    assert again.sites == source.sites


def test_alignment_that_starts_from_text_gives_each_sites_projection_of_one_shared_token(source, pipe):
    text = backbone_for(pipe).text_projections()
    adapter = tiny_models.a4a(source, pipe, text=text)
    for alignment, projections in zip(adapter.mapping.alignments, text, strict=True):
        mapped = torch.randn(2, len(adapter.sites), 4, alignment.text.in_features)
        tokens = alignment.text(mapped)
        assert tokens.shape[-1] == projections[0].in_features and tokens.std().item() == pytest.approx(1, abs=0.15)
        for i, (feature, site) in enumerate(zip(alignment(mapped), projections, strict=True)):
            torch.testing.assert_close(feature, site(tokens[:, i]))


def test_an_alignment_of_lower_rank_starts_as_the_nearest_to_the_text_projections(source, pipe):
    text = backbone_for(pipe).text_projections()
    adapter = tiny_models.a4a(source, pipe, text=text, alignment_rank=3)
    for alignment, projections in zip(adapter.mapping.alignments, text, strict=True):
        tokens = torch.randn(2, 4, projections[0].in_features)
        for layer, site in zip(alignment.linears.layers, projections, strict=True):
            assert isinstance(layer, LowRankLinear)
            missed = torch.linalg.matrix_norm(layer.up.weight @ layer.down.weight - site.weight)
            singular = torch.linalg.svdvals(site.weight)
            torch.testing.assert_close(missed, singular[3:].square().sum().sqrt())  # no matrix of rank 3 is nearer
            bias = 0 if site.bias is None else site.bias
            torch.testing.assert_close(layer(torch.zeros_like(tokens)), torch.zeros_like(layer(tokens)) + bias)
    assert adapter.facts()["alignment"] == "layers of rank 3"


def test_the_whitened_projection_recovers_the_same_condition_at_every_base_site(source, pipe):
    adapter = tiny_models.a4a(source, pipe, text=backbone_for(pipe).text_projections())
    references = torch.randn(3000, tiny_models.EMBED)
    adapter.init_projection(references)
    features = source(references)
    for projection, rows, layers in zip(
        adapter.mapping.projections, (features.keys, features.values), (source.to_k, source.to_v), strict=True
    ):
        coupled = projection(rows).detach()
        whole = [i for i, layer in enumerate(layers) if layer.out_features >= source.text_width]
        assert len(whole) > 1
        for i in whole:
            torch.testing.assert_close(coupled[:, i], coupled[:, whole[0]], atol=5e-3, rtol=1e-2)
        variance = torch.linalg.eigvalsh(coupled[:, whole[0]].flatten(0, 1).T.cov())
        kinds = source.text_width - 1  # the layer norm takes one direction
        torch.testing.assert_close(variance[-kinds:], torch.ones(kinds), atol=0.05, rtol=0.05)


def test_autocast_does_not_change_the_recovered_condition(source, pipe):
    adapter = tiny_models.a4a(source, pipe)
    adapter.init_projection(torch.randn(300, tiny_models.EMBED))
    coupled = []
    for projection in adapter.mapping.projections:
        projection.register_forward_hook(lambda *args: coupled.append(args[-1]))
    embeds = tiny_models.embeds(4).bfloat16()
    exact = adapter(embeds.float())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = adapter(embeds)
    assert all(map(torch.equal, coupled[:2], coupled[2:]))
    assert rounded.keys[0].dtype == torch.bfloat16
    for a, b in zip(rounded.keys + rounded.values, exact.keys + exact.values, strict=True):
        assert (a.float() - b).norm() < 0.02 * b.norm()


def test_few_references_are_whitened_as_many_others_are_too():
    torch.manual_seed(0)
    width, means, scales = 48, torch.randn(4, 48), torch.arange(1, 49) ** -0.5
    draw = lambda count: means + scales * torch.randn(count, 4, width)  # noqa: E731
    held_out = (draw(200) - means.mean(0)).flatten(0, 1)

    def size(covariance):
        return (held_out @ torch.linalg.inv(covariance) * held_out).sum(1).mean() / width  # 1: as large as it should be

    few = draw(14)
    assert size(few.flatten(0, 1).T.cov()) > 3
    assert 0.5 < size(shrunk_covariance(few)) < 1.5
    many = draw(3000)
    torch.testing.assert_close(shrunk_covariance(many), many.flatten(0, 1).T.cov(), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    "cast",
    [
        lambda adapter: adapter.to(torch.bfloat16),
        lambda adapter: adapter.to("cpu", dtype=torch.float16),
        lambda adapter: adapter.half(),
        lambda adapter: nn.ModuleList([adapter]).bfloat16(),
    ],
    ids=["to", "to with a device", "half", "as a part of another module"],
)
def test_the_weights_stay_in_float32(source, pixart, cast):
    adapter = tiny_models.a4a(source, pixart)
    exact = adapter(tiny_models.embeds(2))
    cast(adapter)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert same(adapter(tiny_models.embeds(2)), exact)
    assert adapter.to("meta").device.type == "meta" and adapter.to_empty(device="cpu").device.type == "cpu"


def test_a_pipeline_in_16_bits_gives_the_features_of_one_in_32(source, pixart):
    adapter, embeds = tiny_models.a4a(source, pixart), tiny_models.embeds(2)
    exact, _ = ImagePromptPipeline(pixart, adapter).features(embeds)
    own = ImagePromptPipeline(tiny_models.with_own_denoiser(pixart), adapter)
    own.backbone.denoiser.to(torch.bfloat16)
    own.adapter.to(torch.bfloat16)
    assert same(own.features(embeds)[0], exact)
    assert own.features_for_batch(embeds, 2)[0].keys[0].dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_projection_is_computed_in_full_precision_and_the_users_setting_comes_back(source, pixart, precision):
    adapter, seen = tiny_models.a4a(source, pixart), []
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    for module in (adapter.source, adapter.mapping.projections[0].linears, adapter.mapping.mappings[0]):
        module.register_forward_pre_hook(lambda *_: seen.append([b.fp32_precision for b in backends]))
    torch.set_float32_matmul_precision(precision)
    try:
        before = [b.fp32_precision for b in backends]
        adapter(tiny_models.embeds(2))
        assert torch.get_float32_matmul_precision() == precision and [b.fp32_precision for b in backends] == before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [["ieee", "ieee"], ["ieee", "ieee"], before] and before != ["ieee", "ieee"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sharing": "width", "text_init": True}, "text_init needs a layer per site"),
        ({"sharing": "width"}, "whiten_init needs a layer per site"),
        ({"coupling": False}, "whiten_init needs the source's features"),
    ],
)
def test_an_initialisation_that_does_not_fit_the_other_options_is_refused(source, pixart, options, message):
    with pytest.raises(InputError, match=message):
        A4AConfig(**options).build(backbone_for(pixart), source, tiny_models.EMBED)


def test_heads_that_do_not_divide_are_refused_before_anything_is_encoded(source, pixart):
    with pytest.raises(InputError, match="7 heads but its attention is 96 wide"):
        A4AConfig(heads=7).build(backbone_for(pixart), source, tiny_models.EMBED)


def test_the_sources_projection_can_be_kept_for_a_model_with_another_text_width(source, pixart):
    source_width = source.text_width
    adapter = IPAdapterConfig(keep_projection=True).build(backbone_for(pixart), source, tiny_models.EMBED)
    assert (
        torch.equal(adapter.image_proj.proj.weight, source.image_proj.proj.weight)
        and adapter.text_width == source_width
    )
    assert [f.shape[-1] for f in adapter(tiny_models.embeds(1)).keys] == [s.width for s in backbone_for(pixart).sites]


def test_an_adapter_from_scratch_starts_from_the_text_projections_or_at_random(pipe):
    known = backbone_for(pipe)
    own, random = (IPAdapterConfig(random_init=r).build(known, None, tiny_models.EMBED) for r in (False, True))
    for mine, other, text in zip(own.to_k, random.to_k, known.text_projections()[0], strict=True):
        assert torch.equal(mine.weight, text.weight) and not torch.equal(other.weight, text.weight)


@pytest.mark.parametrize("sharing", ["width", "site"])
def test_every_parameter_is_in_exactly_one_learning_rate_group(source, pipe, sharing):
    adapter = tiny_models.a4a(source, pipe, sharing=sharing)
    groups = adapter.parameter_groups()
    assert list(groups) == ["projection", "mapping", "adapter"]
    found = [id(p) for group in groups.values() for p in group]
    assert sorted(found) == sorted(id(p) for p in adapter.parameters())
    names = {id(p): n for n, p in adapter.named_parameters()}
    parts = {
        group: {names[id(p)].split(".")[0:3:2][-1] if "mapping" in names[id(p)] else "source" for p in ps}
        for group, ps in groups.items()
    }
    assert parts == {"projection": {"0", "2"}, "mapping": {"1"}, "adapter": {"source"}}


def test_all_parameters_of_an_ip_adapter_are_in_one_learning_rate_group(source):
    assert [id(p) for p in source.parameter_groups()["adapter"]] == [id(p) for p in source.parameters()]


# --- onto the wrong model ------------------------------------------------------------------------------------------


def test_an_adapter_for_another_model_is_refused_with_the_first_site_that_differs(source, sdxl, pixart):
    adapter, sites = tiny_models.a4a(source, sdxl), backbone_for(sdxl).sites
    other = backbone_for(pixart).sites
    with pytest.raises(InputError) as caught:
        ImagePromptPipeline(pixart, adapter)
    found, expected = (f"{site.name} of width {site.width}" for site in (sites[0], other[0]))
    assert f"site 0 is {found} where {expected} is expected" in str(caught.value)
    assert "PixArtTransformer2DModel of PixArtAlphaPipeline" in str(caught.value)


def test_an_adapter_that_lacks_a_site_is_refused(source, sd15):
    short = A4A.from_source(source, backbone_for(sd15).sites[:-1], rounds=0)
    with pytest.raises(InputError, match=r"site 15, mid_block.*attn2 of width 48, is missing"):
        ImagePromptPipeline(sd15, short)


def test_a_checkpoint_without_names_is_compared_by_widths(source, sd15, sdxl):
    unnamed = IPAdapter(
        [[str(2 * i + 1), s.width, s.depth] for i, s in enumerate(source.sites)],
        tiny_models.base_projection(tiny_models.EMBED, tiny_models.TEXT),
    )
    ImagePromptPipeline(sd15, unnamed)
    with pytest.raises(InputError, match=r"site 0 is 1 of width 16 where down_blocks.*of width 32"):
        ImagePromptPipeline(sdxl, unnamed)


def test_a_configuration_that_does_not_fit_the_weights_is_refused(source, tmp_path):
    source.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["projection"]["image_embed_dim"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"do not fit their config.json: image_proj.proj.weight is \[\d+, 24\], exp"):
        IPAdapter.from_pretrained(tmp_path)


def test_shapes_are_enforced_while_tests_run(source):
    with pytest.raises(Exception, match=r"(?s)embeds"):
        source(torch.zeros(tiny_models.EMBED))
    assert isinstance(source(torch.zeros(1, tiny_models.EMBED)), SiteFeatures)
    assert isinstance(source.to_k, nn.ModuleList)
    assert sites_to_config(source.sites)[0] == [source.sites[0].name, source.sites[0].width, source.sites[0].depth]


def test_only_the_chosen_base_sites_are_used(pixart, sd15):
    source = tiny_models.ip_adapter(sd15)
    adapter = tiny_models.shaken(
        A4A.from_source(source, backbone_for(pixart).sites, base_sites=2, rounds=1, heads=2), 0.1
    )
    before = adapter(tiny_models.embeds(2)).keys[0]
    unused = next(i for i in range(len(source.sites)) if i not in adapter.base_site_indices)
    with torch.no_grad():
        adapter.source.to_k[unused].weight.add_(1.0)
        assert torch.equal(before, adapter(tiny_models.embeds(2)).keys[0])
        adapter.source.to_k[adapter.base_site_indices[0]].weight.add_(1.0)
    assert len(adapter.base_site_indices) == 2 and not torch.equal(before, adapter(tiny_models.embeds(2)).keys[0])
    with pytest.raises(InputError, match="base_sites is 99"):
        A4A.from_source(source, backbone_for(pixart).sites, base_sites=99)


def test_without_coupling_the_attention_layers_of_the_source_do_not_matter(pixart, sd15):
    adapter = tiny_models.shaken(
        A4A.from_source(tiny_models.ip_adapter(sd15), backbone_for(pixart).sites, coupling=False, rounds=1, heads=2),
        0.1,
    )
    before = adapter(tiny_models.embeds(2)).values[0]
    with torch.no_grad():
        for layer in (*adapter.source.to_k, *adapter.source.to_v):
            layer.weight.add_(1.0)
        assert torch.equal(before, adapter(tiny_models.embeds(2)).values[0])
        adapter.source.image_proj.proj.weight.add_(torch.randn_like(adapter.source.image_proj.proj.weight))
    assert not torch.equal(before, adapter(tiny_models.embeds(2)).values[0])
