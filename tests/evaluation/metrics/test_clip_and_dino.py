import pytest
import torch
from transformers import CLIPModel, Dinov2Model, ViTModel

import tiny_encoders
import tiny_models
from a4a.encoders import DINO, CLIPImageEncoder, CLIPTextEncoder
from a4a.errors import InputError
from a4a.evaluation.metrics import CLIPImageScore, CLIPTextScore, DINOScore


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_encoders.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    return tiny_encoders.clip(tmp_path_factory.mktemp("vision"), whole=False)


def test_the_image_score_is_the_cosine_of_clip_vectors(whole):
    generated = tiny_encoders.generated(subjects=3, of=lambda s, g: tiny_encoders.noise(2 * s + g))
    encoder = CLIPImageEncoder.from_pretrained(whole)
    expected = [
        [torch.cosine_similarity(encoder([r]), encoder([p])).item() for p in row]
        for r, row in zip(generated.references, generated.images, strict=True)
    ]
    assert CLIPImageScore(whole)(generated)["clip_image"] == pytest.approx(torch.tensor(expected).numpy(), abs=1e-5)


def test_the_text_score_is_the_models_own_logit(whole):
    generated = tiny_encoders.generated(subjects=2, generations=3, of=lambda s, g: tiny_encoders.noise(3 * s + g))
    model, tokenizer, encoder = (
        CLIPModel.from_pretrained(whole).eval(),
        tiny_models.clip_tokenizer(),
        CLIPImageEncoder.from_pretrained(whole),
    )
    scores = CLIPTextScore(whole)(generated)["clip_text"]
    for s in range(2):
        for g in range(3):
            tokens = tokenizer([generated.prompts[s][g]], return_tensors="pt")
            pixels = encoder.processor([generated.images[s][g]], return_tensors="pt").pixel_values
            with torch.no_grad():
                out = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
            assert scores[s, g] == pytest.approx(
                float(out.logits_per_image / model.logit_scale.exp().detach()), abs=1e-5
            )


def test_a_prompt_longer_than_the_text_tower_is_cut_off(whole):
    assert CLIPTextEncoder(whole).unit_vectors(["a cat " * 500, "a cat"]).isfinite().all()


def test_a_vision_tower_alone_scores_images_and_not_texts(vision):
    assert CLIPImageScore(vision)(tiny_encoders.generated(subjects=2))["clip_image"] == pytest.approx(1)
    with pytest.raises(InputError, match="is a vision tower alone; the text score needs a whole CLIP model"):
        CLIPTextScore(vision)(tiny_encoders.generated(subjects=2))


def test_the_zoos_clip_is_found_with_its_tokenizer():
    generated = tiny_encoders.generated(subjects=2)
    assert CLIPImageScore("zoo:clip-large")(generated)["clip_image"] == pytest.approx(1)
    assert abs(CLIPTextScore("zoo:clip-large")(generated)["clip_text"]).max() < 1


def test_a_folder_without_a_tokenizer_is_no_model_of_texts(whole, tmp_path):
    model = CLIPModel.from_pretrained(whole)
    model.save_pretrained(tmp_path)
    with pytest.raises(
        InputError,
        match=r"^The tokenizer of .* has \d+ words where its text tower has "
        rf"{model.config.text_config.vocab_size}; add",
    ):
        CLIPTextScore(str(tmp_path))(tiny_encoders.generated(subjects=2))


def test_a_clip_whose_towers_have_a_wrong_projection_dim_in_their_config_is_loaded(whole, tmp_path):
    """laion's configurations leave the halves' own projection_dim at its default."""
    model = CLIPModel.from_pretrained(whole)
    model.config.vision_config.projection_dim = model.config.text_config.projection_dim = 512
    model.save_pretrained(tmp_path)
    tiny_models.clip_tokenizer().save_pretrained(tmp_path)
    assert CLIPImageEncoder(str(tmp_path)).unit_vectors([tiny_encoders.random_blocks(0)]).shape == (1, 24)
    assert CLIPTextEncoder(str(tmp_path)).unit_vectors(["a cat"]).shape == (1, 24)


@pytest.mark.parametrize(("kind", "cls"), [("dinov2", Dinov2Model), ("vit", ViTModel)])
def test_dino_embeds_by_the_class_token(tmp_path, kind, cls):
    folder = tiny_encoders.dino(tmp_path, kind)
    picture = tiny_encoders.noise(0).resize((32, 32))
    model = cls.from_pretrained(folder).eval()
    mean, std = (
        (0.5, 0.5)
        if kind == "vit"
        else (
            torch.tensor(v)[:, None, None]
            for v in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
        )
    )
    pixels = (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1) / 255 - mean
    ) / std
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model(pixels[None]).last_hidden_state[:, 0], dim=-1)
    torch.testing.assert_close(DINO(folder).unit_vectors([picture]), expected, atol=1e-5, rtol=1e-4)


def test_a_model_that_is_no_dino_is_refused(whole):
    with pytest.raises(InputError, match="is a model of type clip; the DINO score takes dinov2"):
        DINOScore(whole)(tiny_encoders.generated(subjects=2))


def test_dino_without_its_preprocessing_config_is_refused(tmp_path):
    folder = tiny_encoders.dino(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="could not be loaded as a DINO model with its preprocessing"):
        DINOScore(folder)(tiny_encoders.generated(subjects=2))


@pytest.mark.parametrize(
    ("make", "what"), [(CLIPImageScore, "CLIP model"), (CLIPTextScore, "CLIP model"), (DINOScore, "DINO model")]
)
def test_names_that_cannot_be_right_are_refused_before_anything_is_generated(make, what):
    with pytest.raises(InputError, match=rf"^There is no {what} folder \./nowhere; give one, or owner/repo"):
        make("./nowhere")
    with pytest.raises(InputError, match=r"^The zoo has no nothing; it has"):
        make("zoo:nothing")


def test_models_are_shared_between_metrics(whole):
    """One gallery, two CLIP metrics: the pictures are encoded once."""
    generated = tiny_encoders.generated(subjects=2)
    CLIPImageScore(whole)(generated)
    assert generated.image_vectors(CLIPTextScore(whole).encoder) is not None
    assert len(generated._vectors) == 2
