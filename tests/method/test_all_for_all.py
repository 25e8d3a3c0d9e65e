"""Eq. 7 to 12 against the equations written out, and who sees whom."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from a4a.errors import InputError
from a4a.features import Site, SiteFeatures
from a4a.method import AllForAll
from a4a.method.alignment import Alignment
from a4a.method.linears import LowRankLinear
from a4a.method.mapping import interpolation

BASE = [Site("b0", 4, 0.0), Site("b1", 6, 1.0), Site("b2", 6, 0.5), Site("b3", 4, 0.75)]
UPGRADED = [Site("u0", 5, 0.0), Site("u1", 10, 0.4), Site("u2", 5, 1.0)]
TOKENS, HEADS, D_SCM = 2, 2, 12

VARIANTS = [
    {"residual": residual, "sharing": sharing, "warm_start": warm, "rounds": rounds}
    for residual, sharing, warm, rounds in itertools.product([True, False], ["width", "site"], [True, False], range(3))
]


def name_of(options):
    return ",".join(f"{k}={v}" for k, v in options.items())


def build(seed=0, shake=True, **options):
    torch.manual_seed(seed)
    method = AllForAll(BASE, UPGRADED, TOKENS, heads=HEADS, **options).double()
    if shake:  # away from all zeros and ones of the beginning
        with torch.no_grad():
            for p in method.parameters():
                p.add_(0.3 * torch.randn_like(p))
    return method


def draw(batch=3, seed=1, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)

    def one():
        return tuple(
            torch.randn(batch, TOKENS, s.width, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)
            for s in BASE
        )

    return SiteFeatures(one(), one())


# --- the equations, written out ------------------------------------------------------------------------------------


def layer_norm(x, weights, name):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def affine(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def multi_head_attention(q, k, v):
    """Tokens x d_im each."""
    width = q.shape[-1] // HEADS
    out = []
    for h in range(HEADS):
        part = slice(h * width, (h + 1) * width)
        logits = q[:, part] @ k[:, part].T / math.sqrt(width)
        weights = torch.exp(logits - logits.max(-1, keepdim=True).values)
        out.append(weights / weights.sum(-1, keepdim=True) @ v[:, part])
    return torch.cat(out, -1)


def which_layer(pairs, sharing):
    """Number of the linear layer of each site."""
    if sharing == "site":
        return list(range(len(pairs)))
    seen = []
    for pair in pairs:
        if pair not in seen:
            seen.append(pair)
    return [seen.index(pair) for pair in pairs]


def mixture_of_depths(weights, normed):
    """Sites x N x d, of sites x N x d."""
    return torch.stack([sum(weights[u, b] * normed[b] for b in range(len(BASE))) for u in range(len(UPGRADED))])


def chain(features, weights, *, residual, sharing, warm_start, rounds):
    """Eq. 7, 9, 11 for one reference (or 8, 10, 12 for values): list of N x d_i to list of N x d^_i."""
    layers = which_layer([s.width for s in BASE], sharing)
    coupling = torch.stack([affine(f, weights, f"0.linears.layers.{i}") for f, i in zip(features, layers, strict=True)])
    hat = weights["1.latents"]
    if warm_start:
        hat = hat + mixture_of_depths(weights["1.mixture"], layer_norm(coupling, weights, "1.norm"))
    tokens = hat.reshape(-1, D_SCM)
    reference = coupling.reshape(-1, D_SCM)
    for r in range(rounds):
        here = f"1.rounds.{r}"
        own, other = (
            layer_norm(tokens, weights, f"{here}.norm_mapped"),
            layer_norm(reference, weights, f"{here}.norm_reference"),
        )
        both = torch.cat([own, other])
        w_1, w_2, w_3, w_out = (weights[f"{here}.w_{n}.weight"].T for n in ("1", "2", "3", "out"))
        attended = multi_head_attention(own @ w_1, both @ w_2, both @ w_3) @ w_out
        tokens = tokens + attended if residual else attended
        inner = gelu(affine(layer_norm(tokens, weights, f"{here}.ffn.0"), weights, f"{here}.ffn.1"))
        out = affine(inner, weights, f"{here}.ffn.3")
        tokens = tokens + out if residual else out
    rows = tokens.reshape(len(UPGRADED), TOKENS, D_SCM)
    layers = which_layer([s.width for s in UPGRADED], sharing)
    return [affine(row, weights, f"2.linears.layers.{i}") for row, i in zip(rows, layers, strict=True)]


@pytest.mark.parametrize("options", VARIANTS, ids=name_of)
def test_the_mapping_computes_equations_7_to_12(options):
    method, features = build(**options), draw()
    found = method(features)
    state = method.state_dict()
    for half, given_half, found_half in (
        ("keys", features.keys, found.keys),
        ("values", features.values, found.values),
    ):
        weights = {name.removeprefix(f"{half}."): t for name, t in state.items() if name.startswith(half)}
        for row in range(features.batch):
            expected = chain([f[row] for f in given_half], weights, **options)
            for e, f in zip(expected, found_half, strict=True):
                torch.testing.assert_close(f[row], e, atol=1e-10, rtol=1e-10)


def test_inner_width_and_coupling_width_can_be_chosen():
    method = build(d_scm=24, inner=8, sharing="width")
    assert method(draw()).widths == (5, 10, 5)
    assert method.mappings[0].rounds[0].w_1.weight.shape == (8, 24)
    assert method.mappings[0].rounds[0].w_out.weight.shape == (24, 8)


def full(layer):
    """The linear layer that a layer of lower rank is."""
    found = torch.nn.Linear(layer.down.in_features, layer.up.out_features).double()
    found.weight.data, found.bias.data = layer.up.weight @ layer.down.weight, layer.up.bias.data
    return found


def test_an_alignment_of_lower_rank_is_one_of_full_layers_with_such_weights():
    method, features = build(alignment_rank=3), draw()
    found = method(features)
    narrow = [[isinstance(layer, LowRankLinear) for layer in a.linears.layers] for a in method.alignments]
    assert narrow == [[True, True, True]] * 2  # 12 x 5, 12 x 10, 12 x 5
    for alignment in method.alignments:
        alignment.linears.layers = torch.nn.ModuleList(full(layer) for layer in alignment.linears.layers)
    for a, b in zip(found.keys + found.values, (again := method(features)).keys + again.values, strict=True):
        torch.testing.assert_close(a, b)


def test_a_layer_keeps_its_full_rank_where_a_lower_one_would_save_nothing():
    method = build(alignment_rank=4)
    ranks = [layer.down.out_features if isinstance(layer, LowRankLinear) else None for layer in layers_of(method)]
    assert ranks == [None, 4, None]  # 4 x (12 + 5) is more than 12 x 5


def layers_of(method):
    return method.alignments[0].linears.layers


def test_features_start_as_large_at_any_rank():
    rows = torch.randn(500, 1, 1, 192)
    sizes = {rank: Alignment(192, [144], "site", rank=rank)(rows)[0].std().item() for rank in (None, 36, 9)}
    assert sizes[36] == pytest.approx(sizes[None], rel=0.1) and sizes[9] == pytest.approx(sizes[None], rel=0.2)


def test_a_rank_below_one_is_refused():
    with pytest.raises(InputError, match="The alignment has rank 0; give a number of at least 1"):
        AllForAll(BASE, UPGRADED, TOKENS, heads=HEADS, alignment_rank=0)


@pytest.mark.parametrize(("heads", "inner", "wide"), [(7, None, 12), (0, None, 12), (4, 6, 6)])
def test_heads_that_do_not_divide_the_attention_are_refused(heads, inner, wide):
    with pytest.raises(InputError, match=f"has {heads} heads but its attention is {wide} wide"):
        AllForAll(BASE, UPGRADED, TOKENS, heads=heads, inner=inner)


@pytest.mark.parametrize(
    ("widths", "expected"), [((320, 640, 1280), 1280), ((4, 6), 12), ((7,), 7), ((48, 64, 96), 192)]
)
def test_the_coupling_width_is_the_least_common_multiple_of_the_base_widths(widths, expected):
    base = [Site(str(i), w, 0.0) for i, w in enumerate(widths)]
    with torch.device("meta"):
        method = AllForAll(base, UPGRADED, TOKENS, heads=1)
    assert {layer.out_features for layer in method.keys[0].linears.layers} == {expected}
    assert {layer.in_features for layer in method.alignments[1].linears.layers} == {expected}


# --- parameters ----------------------------------------------------------------------------------------------------


def linear(name):
    return {f"{name}.weight", f"{name}.bias"}


@pytest.mark.parametrize("options", VARIANTS, ids=name_of)
def test_there_are_no_parameters_but_those_of_the_equations(options):
    per_width = options["sharing"] == "width"
    expected = {"1.latents"}
    for i in range(2 if per_width else 4):
        expected |= linear(f"0.linears.layers.{i}")
    for i in range(2 if per_width else 3):
        expected |= linear(f"2.linears.layers.{i}")
    if options["warm_start"]:
        expected |= {"1.mixture"} | linear("1.norm")
    for r in range(options["rounds"]):
        here = f"1.rounds.{r}"
        expected |= {f"{here}.w_{n}.weight" for n in ("1", "2", "3", "out")}
        for part in ("norm_mapped", "norm_reference", "ffn.0", "ffn.1", "ffn.3"):
            expected |= linear(f"{here}.{part}")
    method = build(**options)
    assert {name for name, _ in method.named_parameters()} == {
        f"{half}.{name}" for half in ("keys", "values") for name in expected
    }
    assert list(method.buffers()) == []


def test_keys_and_values_share_no_parameters_and_no_features():
    method = build()
    assert not {id(p) for p in method.keys.parameters()} & {id(p) for p in method.values.parameters()}
    features = draw(requires_grad=True)
    sum(k.sum() for k in method(features).keys).backward()
    assert all(v.grad is None for v in features.values)
    assert all(p.grad is None for p in method.values.parameters())


# --- all for all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [o for o in VARIANTS if o["rounds"]], ids=name_of)
def test_every_upgraded_site_sees_every_base_site(options):
    method = build(**options)
    for half in ("keys", "values"):
        for u in range(len(UPGRADED)):
            features = draw(requires_grad=True)
            getattr(method(features), half)[u].square().sum().backward()
            assert all(base.grad.abs().amax(dim=(0, 2)).min() > 1e-9 for base in getattr(features, half))


def test_without_rounds_a_warm_start_sees_only_the_two_nearest_base_sites():
    method = build(shake=False, rounds=0)
    features = draw(requires_grad=True)
    method(features).keys[1].sum().backward()
    assert [bool(k.grad.abs().max() > 0) for k in features.keys] == [
        True,
        False,
        True,
        False,
    ]  # depth 0.4 between 0.0 and 0.5


def test_one_reference_does_not_see_another():
    method, features = build(), draw(3)
    whole = method(features)
    for i in range(3):
        alone = method(features[i : i + 1])
        for a, b in zip(alone.keys + alone.values, whole.keys + whole.values, strict=True):
            torch.testing.assert_close(a[0], b[i], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("sharing", ["width", "site"])
def test_rounds_begin_as_the_identity_with_warm_start_and_residual(sharing):
    some = build(shake=False, rounds=2, sharing=sharing)
    none = build(shake=False, rounds=0, sharing=sharing)
    none.load_state_dict({k: v for k, v in some.state_dict().items() if ".rounds." not in k})
    found, expected = some(draw()), none(draw())
    assert all(map(torch.equal, found.keys + found.values, expected.keys + expected.values))


@pytest.mark.parametrize(("residual", "warm_start"), [(True, False), (False, True), (False, False)])
def test_rounds_begin_at_random_otherwise(residual, warm_start):
    method = build(shake=False, residual=residual, warm_start=warm_start)
    assert all(p.abs().max() > 0 for r in method.mappings[0].rounds for p in (r.w_out.weight, r.ffn[-1].weight))


def test_every_parameter_learns_although_rounds_start_as_the_identity():
    """Gradients reach the rounds' last layers at the first step, and everything once these have moved."""
    method = build(shake=False)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(t.square().sum() for t in (method(draw()).keys + method(draw()).values)).backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for p in method.parameters())


# --- the depth-matched mixture -------------------------------------------------------------------------------------

depths = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(depths, depths)
def test_interpolation_is_a_mean_of_base_sites(base, upgraded):
    weights = interpolation(base, upgraded)
    assert weights.shape == (len(upgraded), len(base))
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(len(upgraded)))
    assert ((weights > 0).sum(1) <= 2).all()


@given(depths, depths)
def test_interpolation_gives_the_depth_where_it_lies_between_base_sites(base, upgraded):
    found = interpolation(base, upgraded).double() @ torch.tensor(base, dtype=torch.float64)
    expected = torch.tensor(upgraded, dtype=torch.float64).clamp(min(base), max(base))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_equal_depths_take_one_site_each():
    torch.testing.assert_close(interpolation([0.0, 1.0, 0.5], [0.0, 0.5, 1.0]), torch.eye(3)[[0, 2, 1]])


# --- the counter-example: layer by layer -----------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [True, False])
def test_layer_by_layer_sees_the_nearest_base_site_and_all_to_all_sees_every_one(warm):
    """u0 (depth 0) is nearest to b0, u1 (0.4) to b2 (0.5), u2 (1) to b1."""
    own = {0: 0, 1: 2, 2: 1}
    for connectivity in ("all_to_all", "layer_by_layer"):
        method = build(rounds=2, connectivity=connectivity, warm_start=warm)
        features = draw(requires_grad=True)
        mapped = method(features)
        for u, base in own.items():
            gradients = torch.autograd.grad(
                mapped.keys[u].square().sum(), features.keys, retain_graph=True, allow_unused=True
            )
            moved = {i for i, g in enumerate(gradients) if g is not None and g.abs().max() > 0}
            assert moved == ({base} if connectivity == "layer_by_layer" else set(range(4)))
