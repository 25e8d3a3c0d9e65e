"""What an ImagePrompt says: references and weights, scales of sites, the course over the steps, masks."""

import numpy as np
import pytest
import torch
from PIL import Image

import a4a
from a4a.backbones.groups import site_groups
from a4a.errors import InputError
from a4a.features import Site
from a4a.pipeline import Course, ImagePrompt
from a4a.pipeline.image_prompt import combined, prompts_of_pictures
from a4a.pipeline.references import load_mask
from a4a.pipeline.scales import WEIGHT_TYPES, scales_of, weight_type_factors
from tiny_encoders import photo

RED, BLUE = photo("red"), photo("blue")


def transformer_sites(count=8):
    return [Site(f"transformer_blocks.{i}.attn2", 8, i / (count - 1)) for i in range(count)]


def sdxl_sites():
    """In the order of published adapters, as the U-Net's backbone gives them."""
    counts = {
        "down_blocks.1.attentions.": (2, 2),
        "down_blocks.2.attentions.": (2, 10),
        "mid_block.attentions.": (1, 10),
        "up_blocks.0.attentions.": (3, 10),
        "up_blocks.1.attentions.": (3, 2),
    }
    names = [
        f"{block}{a}.transformer_blocks.{t}.attn2"
        for block, (n, m) in counts.items()
        for a in range(n)
        for t in range(m)
    ]
    sites = [Site(name, 8, i / (len(names) - 1)) for i, name in enumerate(names)]
    return [*sites[:24], *sites[34:], *sites[24:34]]


def test_the_public_names_are_the_classes():
    assert a4a.ImagePrompt is ImagePrompt and a4a.Course is Course


# --- references --------------------------------------------------------------------------------------------------------


def test_one_image_prompt_serves_all_prompts_and_a_list_has_one_for_each():
    assert [len(own) for own in prompts_of_pictures(RED, 3)] == [1, 1, 1]
    one, two = prompts_of_pictures([RED, [RED, BLUE]], 2)
    assert one[0].references is RED and two[0].references == [RED, BLUE]
    left, right = ImagePrompt(RED), ImagePrompt(BLUE)
    assert prompts_of_pictures([[left, right]], 2) == [[left, right]] * 2
    assert len(prompts_of_pictures(torch.zeros(2, 3, 8, 8), 2)) == 2


@pytest.mark.parametrize(
    ("given", "prompts", "sentence"),
    [
        ([RED, BLUE], 3, "There are 2 references for 3 prompts; give one for all or one for each"),
        ([ImagePrompt(RED)] * 2, 1, r"2 references for 1 prompts; .* go into an inner list: \[\[a, b\]\]"),
        ([[RED, ImagePrompt(BLUE)]], 1, r"image_prompt\[0\] is a list of references and ImagePrompts; expected either"),
        ([[]], 1, r"image_prompt\[0\] is an empty list"),
        ([], 1, "There are 0 references for 1 prompts"),
    ],
)
def test_image_prompts_that_do_not_fit_the_prompts_are_refused(given, prompts, sentence):
    with pytest.raises(InputError, match=sentence):
        prompts_of_pictures(given, prompts)


def test_ways_to_combine_embeddings():
    one, two = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    both, weights = torch.cat([one, two]), torch.tensor([3.0, 1.0])
    assert torch.equal(combined(both, weights, "concat"), both)
    assert torch.allclose(combined(both, weights, "average"), (3 * one + two) / 4)
    assert torch.allclose(combined(both, weights, "add"), 3 * one + two)
    assert torch.allclose(combined(both, weights, "subtract"), 3 * one - two)
    direction = torch.tensor([[3.0, 1.0]]) / 10**0.5
    assert torch.allclose(combined(both, weights, "norm average"), direction * (3 * 3 + 1) / 4)
    tokens = torch.randn(2, 5, 4)
    assert combined(tokens, weights, "norm average").shape == (1, 5, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": [1, 2, 3]}, "There are 3 weights for 2 references"),
        ({"weights": [1, -1]}, "concat takes finite ones from 0 on"),
        ({"weights": 0}, "not all 0"),
        ({"weights": [1, float("nan")], "combine": "add"}, "finite"),
    ],
)
def test_weights_that_mean_nothing_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        ImagePrompt([RED, BLUE], **options).weights_for(2)


def test_fields_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="combine is 'mix'; expected one of concat, average"):
        ImagePrompt(RED, combine="mix")
    with pytest.raises(InputError, match="needs either references or embeds"):
        ImagePrompt()
    assert ImagePrompt(RED, combine="norm_average").combine == "norm average"


# --- sites -------------------------------------------------------------------------------------------------------------


def test_style_and_layout_are_instantstyles_blocks_in_sdxl():
    sites = sdxl_sites()
    groups = site_groups(sites)
    for group, block in (("style", "up_blocks.0.attentions.1."), ("layout", "down_blocks.2.attentions.1.")):
        assert groups[group] == [i for i, site in enumerate(sites) if site.name.startswith(block)]
        assert len(groups[group]) == 10
    assert [len(groups[part]) for part in ("down", "mid", "up", "all")] == [24, 10, 36, 70]


def test_groups_of_a_transformer_go_by_depth():
    groups = site_groups(transformer_sites(28))
    assert sorted(groups["early"] + groups["middle"] + groups["late"]) == groups["all"] == list(range(28))
    assert groups["layout"] == [6, 7, 8, 9] and groups["style"] == [18, 19, 20]
    small = site_groups(transformer_sites(2))
    assert small["layout"] == [0] and small["style"] == [1]  # the nearest, where none is at these depths


def test_a_scale_names_groups_and_parts_of_names():
    sites = sdxl_sites()
    found = scales_of({"all": 0.2, "up_blocks.0.attentions.1": 1.0, sites[0].name: 3}, sites, "scale")
    assert found[0] == 3 and found[1] == 0.2
    assert [i for i, number in enumerate(found) if number == 1] == site_groups(sites)["style"]
    assert scales_of({"style": 1.0}, sites, "scale").sum() == 10
    with pytest.raises(InputError, match=r"scale names 'block_1', which is no part of this model; expected all, early"):
        scales_of({"block_1": 1.0}, sites, "scale")
    with pytest.raises(InputError, match=r"scale\['all'\]"):
        scales_of({"all": "strong"}, sites, "scale")


@pytest.mark.parametrize("sites", [sdxl_sites(), transformer_sites()], ids=["unet", "transformer"])
def test_every_weight_type_of_comfyui_has_a_factor_for_each_site(sites):
    assert len(WEIGHT_TYPES) == 15
    found = {name: weight_type_factors(name, sites) for name in WEIGHT_TYPES}
    assert len({tuple(factors) for factors in found.values()}) == 15
    groups = site_groups(sites)
    assert (found["linear"] == 1).all()
    assert found["style transfer"].nonzero()[0].tolist() == sorted(groups["style"])
    assert found["composition precise"][groups["style"]].tolist() == [-1] * len(groups["style"])
    assert (weight_type_factors("ease_in", sites) == found["ease in"]).all()
    with pytest.raises(InputError, match="weight_type is 'strong'; expected one of linear, ease in"):
        weight_type_factors("strong", sites)


# --- steps -------------------------------------------------------------------------------------------------------------


def factors(steps, **options):
    return [round(Course(**options).factor(i, steps), 4) for i in range(steps)]


def test_a_course_acts_between_its_start_and_its_end():
    assert factors(4) == [1, 1, 1, 1]
    assert factors(4, end=0.5) == [1, 1, 0, 0]
    assert factors(5, start=0.4, end=0.8) == [0, 0, 1, 1, 0]
    assert factors(10, end=0.3) == [1, 1, 1] + [0] * 7
    assert factors(1) == [1]


def test_a_course_moves_from_its_first_factor_to_its_last():
    assert factors(5, first=1, last=0) == [1, 0.75, 0.5, 0.25, 0]
    assert factors(3, first=0, last=1, easing="ease in") == [0, 0.25, 1]
    assert factors(3, first=0, last=1, easing="ease out") == [0, 0.75, 1]
    assert factors(4, first=2, last=1, end=0.5) == [2, 1, 0, 0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"start": 0.5, "end": 0.5}, "runs from 0.5 to 0.5; expected fractions"),
        ({"end": 1.5}, "expected fractions of the steps"),
        ({"first": float("inf")}, "first is inf; expected a number"),
        ({"easing": "bounce"}, "easing is 'bounce'; expected one of linear"),
    ],
)
def test_a_course_out_of_range_is_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Course(**options)


def test_a_course_that_holds_no_step_is_refused():
    with pytest.raises(InputError, match=r"from 0 to 0\.1 holds none of the 5 steps"):
        Course(end=0.1).factor(0, 5)


# --- masks -------------------------------------------------------------------------------------------------------------


def test_a_mask_in_every_form_is_the_same(tmp_path):
    half = np.zeros((4, 6), np.uint8)
    half[:, 3:] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    for form in (half, Image.fromarray(half), tmp_path / "mask.png", half / 255, torch.from_numpy(half / 255)):
        assert torch.equal(load_mask(form), torch.from_numpy(half).float() / 255)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.zeros((4, 4, 3)), r"The mask is of shape \[4, 4, 3\]; expected a PIL image"),
        (7, "The mask is a int"),
        (np.full((4, 4), 2.0), r"values from 2 to 2; expected numbers in \[0, 1\]"),
        ("none.png", "There is no image none.png"),
    ],
)
def test_anything_that_is_no_mask_is_refused(mask, sentence):
    with pytest.raises(InputError, match=sentence):
        load_mask(mask)
