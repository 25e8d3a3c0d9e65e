"""Several image prompts at once, masks, token counts and scales per row and step, on the denoisers of all families."""

import pytest
import torch

from a4a.backbones import backbone_for
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.image_terms import ImageTerm, RegionMask, TokenGrid
from a4a.injection import Injection
from injecting import features, injected, run


@pytest.fixture
def backbone(pipe):
    return backbone_for(pipe)


def term(backbone, given, scale=1.0, **options):
    return ImageTerm(given, torch.full((given.batch, len(backbone.sites)), scale), **options)


def with_terms(backbone, *terms, factors=None, rows=1):
    with Injection(backbone.denoiser, backbone.sites) as injection:
        injection.set_terms(terms)
        if factors is not None:
            injection.multiply(factors)
        return run(backbone, rows)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def soft_mask(height=5, width=11):
    return torch.rand(1, height, width, generator=torch.Generator().manual_seed(3))


def test_two_terms_whose_masks_fill_the_image_are_one_without_a_mask(backbone):
    given, mask = features(backbone), soft_mask()
    found = with_terms(backbone, term(backbone, given, mask=mask), term(backbone, given, mask=1 - mask))
    close(found, injected(backbone, given))
    assert not torch.allclose(with_terms(backbone, term(backbone, given, mask=mask)), found, atol=1e-4)


def test_a_mask_acts_on_the_rows_that_lie_in_it(backbone):
    """At the first site, which sees nothing that another site has changed."""
    seen = []
    first = min(backbone.sites, key=lambda site: site.depth)
    hook = backbone.denoiser.get_submodule(first.name).register_forward_hook(
        lambda _module, _args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    try:
        run(backbone)
        with_terms(backbone, term(backbone, features(backbone), mask=mask))
        with_terms(backbone, term(backbone, features(backbone)))
    finally:
        hook.remove()
    plain, right, everywhere = (output[:1] for output in seen)  # of one branch of guidance
    image = (everywhere - plain).abs().amax(-1) > 0
    changed = ((right - plain).abs().amax(-1) > 0)[image]
    assert changed.float().mean() == 0.5
    side = round(len(changed) ** 0.5)
    assert changed.view(side, side)[:, side // 2 :].all()


def test_tokens_that_count_twice_are_tokens_given_twice(backbone):
    given = features(backbone)
    twice = SiteFeatures(*(tuple(torch.cat([t, t[:, :1]], 1) for t in side) for side in (given.keys, given.values)))
    counts = torch.tensor([[2.0, 1.0, 1.0, 1.0]])
    close(with_terms(backbone, term(backbone, given, counts=counts)), injected(backbone, twice))


def test_tokens_that_count_nothing_are_left_out(backbone):
    given = features(backbone)
    first = given.map(lambda t: t[:, :2])
    counts = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    close(with_terms(backbone, term(backbone, given, counts=counts)), injected(backbone, first))


def test_a_factor_multiplies_the_scale_in_place_and_zero_is_the_plain_model(backbone):
    given = features(backbone)
    found = with_terms(backbone, term(backbone, given, 0.8), factors=[[0.5]])
    close(found, injected(backbone, given, 0.4))
    assert torch.equal(with_terms(backbone, term(backbone, given), factors=[[0.0]]), run(backbone))


def test_rows_have_scales_of_their_own(backbone):
    given = features(backbone, 2)
    scales = torch.tensor([[1.0], [0.0]]).expand(-1, len(backbone.sites))
    found = with_terms(backbone, ImageTerm(given, scales), rows=2)
    close(found[:1], injected(backbone, given, rows=2)[:1])
    close(found[1:], run(backbone, 2)[1:])


def test_terms_of_different_numbers_of_rows_are_refused(sd15):
    backbone = backbone_for(sd15)
    with pytest.raises(InputError, match="Image terms differ in their number of rows"):
        with_terms(backbone, term(backbone, features(backbone)), term(backbone, features(backbone, 2)))


def test_a_mask_keeps_soft_edges_and_serves_every_level_and_frame():
    mask = RegionMask(torch.tensor([[[0.0, 0.5, 1.0, 1.0]] * 4]))
    mask.fit(TokenGrid(2, 4, 4, halved=True))
    assert mask.at(32, "a").view(2, 4, 4)[1, 2].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert mask.at(8, "a").view(2, 2, 2)[0, 0].tolist() == [0.25, 1.0]
    with pytest.raises(InputError, match=r"cannot be applied at a, which runs on 7 rows .*have 32, 8, 2;"):
        mask.at(7, "a")


def test_a_model_without_a_family_takes_no_mask(sd15):
    backbone = backbone_for(sd15)
    with Injection(backbone.denoiser, backbone.sites) as injection:
        injection.forward._family = None
        injection.set_terms([term(backbone, features(backbone), mask=soft_mask())])
        with pytest.raises(InputError, match="A mask needs to know how UNet2DConditionModel lays out its image"):
            run(backbone)
