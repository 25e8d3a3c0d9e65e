"""Each attention contract, on the attention modules of real diffusers transformers."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, FusedJointAttnProcessor2_0, JointAttnProcessor2_0
from diffusers.models.transformers.transformer_flux2 import Flux2ParallelSelfAttention
from torch import nn

from a4a.backbones import backbone_for
from a4a.backbones.attention import CONTRACTS, CROSS, DOUBLE, PACKED, SINGLE_FIRST, SINGLE_LAST, ImageRows, contract_of
from a4a.errors import InputError
from a4a.features import Site

HEADS, HEAD_WIDTH = 3, 4
WIDTH = HEADS * HEAD_WIDTH


def joint(norm="rms_norm"):
    torch.manual_seed(0)
    return Attention(
        query_dim=WIDTH,
        added_kv_proj_dim=WIDTH,
        heads=HEADS,
        dim_head=HEAD_WIDTH,
        context_pre_only=False,
        qk_norm=norm,
        bias=True,
        processor=JointAttnProcessor2_0(),
    )


def cross(norm=None, kv_heads=None):
    torch.manual_seed(0)
    return Attention(
        query_dim=WIDTH, cross_attention_dim=8, heads=HEADS, kv_heads=kv_heads, dim_head=HEAD_WIDTH, qk_norm=norm
    )


def test_contracts_have_distinct_names_by_which_sites_name_them():
    assert list(CONTRACTS) == ["cross", "double", "single-first", "single-last", "packed"]
    assert all(contract_of(name).name == name for name in CONTRACTS)
    assert contract_of(Site("a", 4, 0.0).attention) is CROSS
    with pytest.raises(InputError, match="no attention contract 'triple'; expected one of cross, double"):
        contract_of("triple")


def test_the_contract_of_a_site_is_no_part_of_its_identity():
    assert Site("a", 4, 0.5, "double") == Site("a", 4, 0.5)


def test_every_site_of_a_backbone_names_a_contract_that_fits_its_module(pipe):
    backbone = backbone_for(pipe)
    for site in backbone.sites:
        module, contract = backbone.denoiser.get_submodule(site.name), contract_of(site.attention)
        assert contract.key_width(module) == site.width
        assert contract.head_count(module) == module.heads


def test_text_projections_are_those_that_see_the_text():
    attention = joint()
    assert DOUBLE.text_projections(attention) == (attention.add_k_proj, attention.add_v_proj)
    attention = cross()
    assert CROSS.text_projections(attention) == (attention.to_k, attention.to_v)


@pytest.mark.parametrize("bias", [False, True])
def test_the_text_projections_of_packed_attention_are_parts_of_its_layer(bias):
    attention, hidden = Flux2ParallelSelfAttention(WIDTH, HEADS, HEAD_WIDTH, bias=bias), torch.randn(2, 5, WIDTH)
    columns = attention.to_qkv_mlp_proj(hidden)[..., WIDTH : 3 * WIDTH].chunk(2, dim=-1)
    layers = PACKED.text_projections(attention)
    for layer, kind, expected in zip(layers, ("keys", "values"), columns, strict=True):
        torch.testing.assert_close(PACKED.text_part(attention, layer, kind)(hidden), expected)


def test_key_width_is_that_of_the_keys_where_heads_share_them():
    assert CROSS.key_width(cross()) == WIDTH
    attention = cross("rms_norm_across_heads", kv_heads=1)
    assert CROSS.key_width(attention) == HEAD_WIDTH
    assert CROSS.key_heads(attention, torch.randn(2, 5, HEAD_WIDTH), WIDTH).shape == (2, 1, 5, HEAD_WIDTH)


def test_the_query_is_the_first_third_of_a_fused_projection():
    attention = joint(None)
    hidden = torch.randn(2, 5, WIDTH)
    query = attention.to_q(hidden)
    attention.fuse_projections()
    attention.set_processor(FusedJointAttnProcessor2_0())
    torch.testing.assert_close(DOUBLE.query_columns(attention, "to_qkv", attention.to_qkv(hidden)), query)
    assert DOUBLE.query_columns(attention, "to_q", query) is query


def test_the_query_is_the_first_columns_of_a_packed_projection():
    attention = Flux2ParallelSelfAttention(WIDTH, HEADS, HEAD_WIDTH)
    projected = attention.to_qkv_mlp_proj(torch.randn(2, 5, WIDTH))
    assert torch.equal(PACKED.query_columns(attention, "to_qkv_mlp_proj", projected), projected[..., :WIDTH])


def by_head(t):
    """Heads of [batch, rows, width], split without torch's reshaping."""
    return torch.stack([t[..., h * HEAD_WIDTH : (h + 1) * HEAD_WIDTH] for h in range(HEADS)], dim=1)


@pytest.mark.parametrize("kind", [None, "layer_norm", "fp32_layer_norm", "rms_norm", "l2"])
def test_a_norm_of_each_head_acts_on_each_head(kind):
    attention = cross(kind)
    t = torch.randn(2, 5, WIDTH)
    norms = (attention.norm_q or nn.Identity(), attention.norm_k or nn.Identity())
    torch.testing.assert_close(CROSS.query_heads(attention, t), norms[0](by_head(t)))
    torch.testing.assert_close(CROSS.key_heads(attention, t, WIDTH), norms[1](by_head(t)))
    torch.testing.assert_close(CROSS.value_heads(attention, t, WIDTH), by_head(t))


@pytest.mark.parametrize("kind", ["layer_norm_across_heads", "rms_norm_across_heads"])
def test_a_norm_over_all_heads_acts_before_they_are_split(kind):
    attention = cross(kind, kv_heads=HEADS)
    nn.init.normal_(attention.norm_q.weight)
    nn.init.normal_(attention.norm_k.weight)
    t = torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(CROSS.query_heads(attention, t), by_head(attention.norm_q(t)))
    torch.testing.assert_close(CROSS.key_heads(attention, t, WIDTH), by_head(attention.norm_k(t)))


def test_image_rows_of_each_contract():
    query = torch.zeros(2, 9, WIDTH)
    assert CROSS.drawn_rows(query, None) == DOUBLE.drawn_rows(query, None) == slice(0, 9)
    assert CROSS.drawn_rows(query, ImageRows(4)) == SINGLE_FIRST.drawn_rows(query, ImageRows(4)) == slice(0, 4)
    assert SINGLE_LAST.drawn_rows(query, ImageRows(4)) == PACKED.drawn_rows(query, ImageRows(4)) == slice(5, 9)


def test_rows_of_reference_images_are_not_the_drawn_images():
    query = torch.zeros(2, 9, WIDTH)
    assert DOUBLE.drawn_rows(query, ImageRows(4, after=3)) == slice(0, 4)
    assert SINGLE_FIRST.drawn_rows(query, ImageRows(4, before=2)) == slice(2, 6)
    assert SINGLE_LAST.drawn_rows(query, ImageRows(4, after=3)) == slice(2, 6)


def test_image_rows_that_differ_between_samples_are_a_mask():
    query = torch.zeros(2, 5, WIDTH)
    starts = SINGLE_FIRST.drawn_rows(query, ImageRows(2, before=torch.tensor([1, 3])))
    assert starts.squeeze(-1).int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    counts = SINGLE_LAST.drawn_rows(query, ImageRows(torch.tensor([1, 3])))
    assert counts.squeeze(-1).int().tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 1, 1]]
    known_on_the_device = DOUBLE.drawn_rows(query, ImageRows(torch.tensor(2)))
    assert known_on_the_device.squeeze(-1).int().tolist() == [[1, 1, 0, 0, 0]]


@pytest.mark.parametrize("rows", [ImageRows(-1), ImageRows(10), ImageRows(4, after=6)])
def test_image_rows_that_do_not_fit_the_sequence_are_an_input_error(rows):
    with pytest.raises(InputError, match=r"single-last attention runs on 9 rows, of which .* does not fit"):
        SINGLE_LAST.drawn_rows(torch.zeros(2, 9, WIDTH), rows)


def test_one_sequence_for_text_and_image_needs_to_know_the_image_rows():
    with pytest.raises(InputError, match="single-last attention holds text and image in one sequence"):
        SINGLE_LAST.drawn_rows(torch.zeros(2, 9, WIDTH), None)
