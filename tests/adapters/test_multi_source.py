"""One A4A of several sources: each is used as an A4A of its own, and all share mapping and alignment."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import tiny_models
import tiny_projections
from a4a.adapters.a4a import A4A
from a4a.adapters.loading import encoder_of, load_adapter
from a4a.adapters.multi_source import MultiSourceA4A, choose_source
from a4a.backbones import backbone_for
from a4a.errors import InputError
from a4a.pipeline import ImagePromptPipeline
from a4a.training.denoising import LearningRates, ObjectiveConfig
from a4a.training.multi_source import MultiSourceDenoising, shares


def same(a, b):
    return all(map(torch.equal, a.keys + a.values, b.keys + b.values))


def families(pipe, base, **options):
    """An untrained A4A of a source of the base family and one of the Plus family."""
    sources = {family: tiny_projections.ip_adapter(base, family) for family in ("base", "plus")}
    return MultiSourceA4A.from_sources(sources, backbone_for(pipe).sites, **{"heads": 2, "rounds": 1, **options})


def test_a_saved_one_gives_each_source_as_an_a4a_with_the_same_features(pixart, sd15, tmp_path):
    adapter = tiny_models.two_sources(pixart, sd15)
    adapter.save_pretrained(tmp_path / "both")
    again = load_adapter(tmp_path / "both").eval()
    assert isinstance(again, MultiSourceA4A) and set(again.adapters) == {"pooled", "more"}
    for name in again.adapters:
        chosen = again.select(name)
        assert same(chosen(tiny_models.embeds(2)), adapter.select(name)(tiny_models.embeds(2)))
        chosen.save_pretrained(tmp_path / name)
        alone = A4A.from_pretrained(tmp_path / name).eval()
        assert same(alone(tiny_models.embeds(2)), chosen(tiny_models.embeds(2)))
    card = (tmp_path / "both" / "README.md").read_text()
    assert "several source adapters by one A4A: pooled, more" in card and '.select("pooled")' in card


def test_sources_share_mapping_and_alignment_alone(pixart, sd15):
    adapter = tiny_models.two_sources(pixart, sd15)
    before = {name: adapter.select(name)(tiny_models.embeds()) for name in adapter.adapters}
    tiny_models.shaken(adapter.select("more").mapping.projections[0])
    assert same(adapter.select("pooled")(tiny_models.embeds()), before["pooled"])
    assert not same(adapter.select("more")(tiny_models.embeds()), before["more"])
    tiny_models.shaken(adapter.alignments)
    assert not same(adapter.select("pooled")(tiny_models.embeds()), before["pooled"])


def test_attention_over_repeated_tokens_is_attention_over_the_tokens():
    torch.manual_seed(0)
    query, keys, values = torch.randn(1, 5, 8), torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    repeated = (t.repeat_interleave(4, dim=1) for t in (keys, values))
    expected = scaled_dot_product_attention(query, keys, values)
    torch.testing.assert_close(scaled_dot_product_attention(query, *repeated), expected)


def test_a_source_with_fewer_tokens_repeats_them(pixart, sd15):
    adapter = tiny_models.two_sources(pixart, sd15)
    few = adapter.select("pooled")
    assert (few.source.tokens, few.tokens, adapter.tokens) == (2, 4, 4)
    features = few._source_features(tiny_models.embeds())
    assert torch.equal(features.keys[0][:, 0], features.keys[0][:, 1])
    with pytest.raises(InputError, match="tokens is 3 but the source adapter has 2"):
        tiny_models.a4a(few.source, pixart, tokens=3)


def test_each_source_starts_whitened_and_turned_to_the_first(pixart, sd15):
    adapter, generator = families(pixart, sd15), torch.Generator().manual_seed(0)
    tokens = torch.randn(400, tiny_projections.PATCHES, tiny_projections.HIDDEN, generator=generator)
    tokens = tokens * 0.2 + torch.randn(400, 1, tiny_projections.HIDDEN, generator=generator)  # as of a whole image
    embeds = {"tokens": tokens, "pooled": tokens.mean(1)[:, : tiny_models.EMBED]}

    def places(name):
        """Each reference's place in the coupling space, at the last base site."""
        chosen = adapter.select(name)
        features = chosen._source_features(embeds[chosen.encoder_output])
        placed = chosen.mapping.projections[0](features.keys)[:, -1].mean(1)
        return torch.nn.functional.normalize(placed - placed.mean(0), dim=-1)

    likeness = []
    for turned in (False, True):
        if turned:
            adapter.init_projection(embeds)
        else:
            for name in adapter.adapters:
                chosen = adapter.select(name)
                chosen.init_projection(embeds[chosen.encoder_output])
        likeness.append((places("base") * places("plus")).sum(1).mean().item())
    assert likeness[1] > likeness[0] + 0.2


def test_every_batch_reaches_all_that_is_trained(pixart, sd15):
    backbone, adapter = backbone_for(tiny_models.with_own_denoiser(pixart)), families(pixart, sd15)
    tiny_models.shaken(adapter, 0.1)
    config = ObjectiveConfig(rates=LearningRates(), train_source=True)
    no_images = {"pooled": torch.zeros(1, tiny_models.EMBED), "tokens": tiny_projections.embeds("plus")}
    loss = MultiSourceDenoising(backbone, adapter, config, None, no_images)
    batch = tiny_models.Samples(backbone, 3).tensors
    batch |= {"embeds.pooled": batch.pop("embeds"), "embeds.tokens": tiny_projections.embeds("plus", 3)}
    torch.manual_seed(0)
    loss(batch).backward()
    grouped = [p for group in loss.parameter_groups() for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, adapter.parameters()))
    assert [name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
    loss.detach()


def test_shares_of_a_batch_are_equal_and_what_is_left_over_is_drawn():
    torch.manual_seed(0)
    assert shares(8, 2) == [4, 4]
    drawn = [tuple(shares(1, 2)) for _ in range(40)]
    assert set(drawn) == {(0, 1), (1, 0)} and all(sum(shares(5, 3)) == 5 for _ in range(5))


def test_it_is_used_with_one_of_its_sources_by_name(pixart, sd15):
    adapter = tiny_models.two_sources(pixart, sd15)
    for use in (lambda: ImagePromptPipeline(pixart, adapter), lambda: encoder_of(adapter, "both"), adapter.select):
        with pytest.raises(InputError, match=r"has the sources pooled, more, and .*; give one of these"):
            use("plus") if use == adapter.select else use()
    pipe = ImagePromptPipeline(pixart, choose_source(adapter, "more"))
    assert tiny_models.call(pipe, image_prompt_embeds=tiny_models.embeds()).isfinite().all()
    with pytest.raises(InputError, match="source is 'more' but the adapter is A4A"):
        choose_source(adapter.select("more"), "more")


def test_sources_that_do_not_go_together_are_refused(pixart, sd15, sdxl):
    sites, one = backbone_for(pixart).sites, tiny_models.ip_adapter(sd15)
    with pytest.raises(InputError, match="a and b are for different base models"):
        MultiSourceA4A.from_sources({"a": one, "b": tiny_models.ip_adapter(sdxl)}, sites)
    other = tiny_models.ip_adapter(sd15, seed=1)
    other.set_image_encoder("some/encoder")
    third = tiny_models.ip_adapter(sd15, seed=2)
    third.set_image_encoder("another/encoder")
    with pytest.raises(InputError, match=r"different image encoders \(b some/encoder, c another/encoder\)"):
        MultiSourceA4A.from_sources({"a": one, "b": other, "c": third}, sites)
    with pytest.raises(InputError, match="without a dot"):
        MultiSourceA4A.from_sources({"a.b": one, "c": other}, sites)
