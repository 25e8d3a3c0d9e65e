"""What image prompts do to the zoo's pictures, by the identity of the subjects that are in them."""

import numpy as np
import pytest
import torch

from a4a import A4A, Course, ImagePrompt, ImagePromptPipeline, load_pipeline
from a4a.zoo import Identity, WorldTask

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7))
PROMPT = "a large creature in the middle, on a beach"
LEFT = np.tile(np.arange(128) < 64, (64, 1)).astype(float)


@pytest.fixture(scope="module")
def references():
    return WorldTask("test", subjects=20).references


@pytest.fixture(scope="module")
def pipe():
    pipe = ImagePromptPipeline(load_pipeline("zoo:pixart-mini"), A4A.from_pretrained("zoo:a4a-plus-pixart-mini"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def drawn(pipe, references):
    """Pictures of each pair by one way to prompt; a way that was drawn before is not drawn again."""
    known = {}
    options = {"num_inference_steps": 10, "guidance_scale": 3.0}

    def draw(name, way, **size):
        if name not in known:
            noise = [torch.Generator().manual_seed(seed) for seed in range(len(PAIRS))]
            prompts = [way(references[a], references[b]) for a, b in PAIRS]
            known[name] = pipe([PROMPT] * len(PAIRS), image_prompt=prompts, generator=noise, **options, **size).images
        return known[name]

    return draw


@pytest.fixture(scope="module")
def likeness(references):
    """Mean similarity of pictures to the first and to the second subject of their pairs."""
    identity = Identity()
    known = identity(references)

    def of(images):
        found = identity(images) @ known.T
        return [float(np.mean([found[i, pair[place]].item() for i, pair in enumerate(PAIRS)])) for place in (0, 1)]

    return of


def first(drawn):
    return drawn("first", lambda a, b: ImagePrompt(a))


def text(drawn):
    return drawn("text", lambda a, b: ImagePrompt(a, scale=0.0))


def test_two_references_in_two_halves_are_each_found_in_their_own(drawn, references):
    images = drawn(
        "halves", lambda a, b: [ImagePrompt(a, mask=LEFT), ImagePrompt(b, mask=1 - LEFT)], height=64, width=128
    )
    halves = [image.crop((x, 0, x + 64, 64)) for image in images for x in (0, 64)]
    identity = Identity()
    nearest = (identity(halves) @ identity(references).T).argmax(1).tolist()  # of 20
    assert sum(found == own for found, own in zip(nearest, (s for pair in PAIRS for s in pair), strict=True)) >= 7


def test_the_steps_after_the_end_of_a_course_are_the_texts(drawn, likeness):
    """They draw over the subject: the earlier the image prompt ends, the less is left of it."""
    courses = {0.2: "first fifth", 0.5: "first half"}
    ended = [drawn(name, lambda a, b, end=end: ImagePrompt(a, course=Course(end=end))) for end, name in courses.items()]
    plain, fifth, half, whole = (likeness(images)[0] for images in (text(drawn), *ended, first(drawn)))
    assert plain + 0.2 < half < whole
    assert plain < fifth < half - 0.1


def test_combined_references_are_both_in_the_picture_and_a_subtracted_one_is_not(drawn, likeness):
    alone, plain = likeness(first(drawn)), likeness(text(drawn))
    for combine in ("concat", "average", "norm average"):
        both = likeness(drawn(combine, lambda a, b, way=combine: ImagePrompt([a, b], combine=way)))
        assert both[0] > plain[0] + 0.2 and both[1] > alone[1] + 0.1
    without = likeness(drawn("subtract", lambda a, b: ImagePrompt([a, b], combine="subtract", weights=[1, 0.5])))
    assert without[1] < both[1] - 0.1 and without[0] > plain[0] + 0.2


def test_weights_move_a_picture_from_one_reference_to_the_other(drawn, likeness):
    mostly = [
        likeness(drawn(weights, lambda a, b, w=weights: ImagePrompt([a, b], combine="average", weights=w)))
        for weights in ((3, 1), (1, 1), (1, 3))
    ]
    assert mostly[0][0] > mostly[1][0] > mostly[2][0] and mostly[0][1] < mostly[1][1] < mostly[2][1]


def test_a_negative_image_prompt_lowers_what_it_shows(drawn, likeness):
    both = likeness(drawn("average", lambda a, b: ImagePrompt([a, b], combine="average")))
    against = likeness(drawn("against", lambda a, b: ImagePrompt([a, b], combine="average", negative=b)))
    assert against[1] < both[1] - 0.1 and against[0] > both[0]
