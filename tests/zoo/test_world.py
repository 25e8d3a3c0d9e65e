import pytest
import torch

from a4a.errors import InputError
from a4a.zoo.dataset import WorldImages
from a4a.zoo.drawing import draw
from a4a.zoo.world import EARS, HATS, HUES, PLACES, SCENES, SHAPES, SIZES, Subjects, Views, caption, describe


def test_drawing_depends_on_the_seed_alone_and_not_on_the_batch():
    subjects, views = Subjects.sample(12, "test"), Views.sample(12, 3)
    whole = draw(subjects, views)
    assert whole.shape == (12, 3, 64, 64)
    assert torch.equal(whole, draw(Subjects.sample(12, "test"), Views.sample(12, 3)))
    rows = torch.tensor([7, 2])
    assert torch.allclose(whole[rows], draw(subjects[rows], views[rows]), atol=1e-6)
    assert whole.min() >= 0 and whole.max() <= 1


def test_more_subjects_begin_with_the_same():
    few, many = Subjects.sample(5, "train"), Subjects.sample(50, "train")
    assert torch.equal(few.skin_hue, many.skin_hue[:5])


def test_splits_share_no_subject():
    hues = [set(Subjects.sample(2000, split).skin_hue.tolist()) for split in ("train", "validation", "test")]
    assert not hues[0] & hues[2] and not hues[1] & hues[2] and not hues[0] & hues[1]


def test_an_unknown_split_is_named():
    with pytest.raises(InputError, match="nonsense"):
        Subjects.sample(3, "nonsense")


def test_a_domain_has_the_subjects_of_its_kind_alone_and_in_their_order():
    caps = Subjects.sample(10, "test", {"hat": "cap"})
    world = Subjects.sample(200, "test")
    assert torch.equal(caps.lightness, world.lightness[world.hat == HATS.index("cap")][:10])
    images = WorldImages("train", 6, domain={"shape": "tall", "hat": "cap"})
    assert set(images.subjects.shape.tolist()) == {SHAPES.index("tall")}
    assert images.key != WorldImages("train", 6).key


@pytest.mark.parametrize(
    ("domain", "message"), [({"nose": "long"}, "names the trait 'nose'"), ({"hat": "fez"}, "no hat 'fez'")]
)
def test_an_unknown_domain_is_named(domain, message):
    with pytest.raises(InputError, match=message):
        Subjects.sample(1, "test", domain)


def test_captions_name_the_view_and_never_the_subject():
    views = Views.sample(400, 4)
    lines = caption(views, 4)
    traits = {*SHAPES, *(e for e in EARS if e not in ("no", "round")), *HUES, "hat", "cap", "eyes", "fur", "striped"}
    for i, line in enumerate(lines):
        assert (
            SCENES[int(views.scene[i])] in line
            and PLACES[int(views.place[i])] in line
            and SIZES[int(views.size[i])] in line
        )
        words = set(line.replace(",", "").split())
        assert not words & traits, line


def test_descriptions_name_traits():
    subjects, views = Subjects.sample(200, "clip"), Views.sample(200, 4)
    lines = describe(subjects, views, 1)
    hats = [line for i, line in enumerate(lines) if HATS[int(subjects.hat[i])] in line]
    assert len(hats) > 80  # each trait is named two times in three
    assert lines != describe(subjects, views, 2)


def test_every_trait_changes_the_image():
    views = Views.sample(1, 1)
    one = Subjects.sample(1, "test")
    plain = draw(one, views)
    for name in ("shape", "ears", "hat"):
        kinds = [draw(Subjects(**{**vars(one), name: torch.tensor([k])}), views) for k in range(4)]
        assert len({tuple(k.flatten().tolist()) for k in kinds}) == 4, name
    for name in ("skin_hue", "eye_hue", "eye_size", "eye_distance", "lightness"):
        other = Subjects(**{**vars(one), name: getattr(one, name) + 0.08})
        assert not torch.equal(draw(other, views), plain), name


def test_reference_and_target_are_two_drawings_of_one_subject():
    pictures = WorldImages("train", 6, views=3)
    assert len(pictures.pairs) == 6 * 3
    reference, target = pictures.pairs.unbind(1)
    assert (reference != target).all()
    assert torch.equal(pictures.subjects[reference].skin_hue, pictures.subjects[target].skin_hue)
    assert (pictures.views[reference].size == SIZES.index("large")).all() and len(reference.unique()) == 6
    assert not torch.equal(pictures.pixels(reference[:1]), pictures.pixels(target[:1]))


def test_trait_vectors_have_every_trait_at_equal_scale():
    numbers = Subjects.sample(2000, "train").trait_vectors()
    assert numbers.shape == (2000, 27) and numbers.abs().max() <= 1
    assert (numbers[:, :16].unflatten(1, (4, 4)).sum(2) == 1).all()
    turns = numbers[:, 16:24]
    assert torch.allclose(turns[:, :4] ** 2 + turns[:, 4:] ** 2, torch.ones(2000, 4), atol=1e-5)
    assert numbers[:, 24:].mean(0).abs().max() < 0.05
