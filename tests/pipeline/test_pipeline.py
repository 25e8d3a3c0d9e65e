"""An ImagePromptPipeline is a pipeline to others: attributes, moves, saving, its encoder, wrappers and threads."""

import copy
import threading

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model

import a4a
import tiny_models
from a4a.backbones import load_pipeline
from a4a.errors import InputError
from a4a.injection import is_attached
from a4a.pipeline import ImagePromptPipeline
from tiny_encoders import image_encoder, photo


@pytest.fixture
def prompted(pipe):
    """With a denoiser of its own, which a test may change."""
    own = tiny_models.with_own_denoiser(pipe)
    return ImagePromptPipeline(own, tiny_models.ip_adapter(own), image_encoder())


def differ(a, b):
    return (a - b).abs().max() > 1e-3


def test_the_public_name_is_the_class():
    assert a4a.ImagePromptPipeline is ImagePromptPipeline


# --- attributes and methods of the wrapped pipeline ------------------------------------------------------------------


def test_attributes_and_methods_are_the_wrapped_pipelines(prompted):
    pipe = prompted.pipe
    assert prompted.vae is pipe.vae and prompted.config is pipe.config and prompted.device == pipe.device
    assert prompted.dtype == pipe.dtype and prompted.components.keys() == pipe.components.keys()
    for method in ("enable_model_cpu_offload", "set_progress_bar_config", "enable_attention_slicing", "encode_prompt"):
        assert getattr(prompted, method) == getattr(pipe, method)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = prompted.no_such_thing


def test_a_scheduler_that_is_set_is_the_wrapped_pipelines(prompted):
    scheduler = type(prompted.scheduler).from_config(prompted.scheduler.config)
    prompted.scheduler = scheduler
    assert prompted.pipe.scheduler is prompted.scheduler is scheduler
    tiny_models.call(prompted, image_prompt=photo("red"), num_inference_steps=2)
    assert len(scheduler.timesteps) == 2


def test_the_progress_bar_is_on_unless_asked_off(capfd):
    prompted = ImagePromptPipeline(load_pipeline("zoo:sd15-mini"), a4a.load_adapter("zoo:ip-adapter-sd15-mini"))
    prompted("a cat", num_inference_steps=1)
    assert "1/1" in capfd.readouterr().err
    prompted.set_progress_bar_config(disable=True)
    prompted("a cat", num_inference_steps=1)
    assert capfd.readouterr().err == ""


def test_lora_weights_are_loaded_into_the_wrapped_pipeline(sd15, tmp_path):
    own = tiny_models.with_own_denoiser(sd15)
    prompted = ImagePromptPipeline(own, tiny_models.ip_adapter(sd15), image_encoder())
    before = tiny_models.call(prompted, image_prompt=photo("red"))
    torch.manual_seed(0)
    weights = {
        f"unet.{site.name}.to_q.lora_{side}.weight": torch.randn(shape)
        for site in prompted.backbone.sites
        for side, shape in (("A", (2, site.width)), ("B", (site.width, 2)))
    }
    prompted.load_lora_weights(weights)
    assert differ(tiny_models.call(prompted, image_prompt=photo("red")), before)
    prompted.unload_lora_weights()
    assert torch.equal(tiny_models.call(prompted, image_prompt=photo("red")), before)


def test_to_moves_adapter_and_encoder_along_and_returns_the_pipeline(prompted):
    own = ImagePromptPipeline(copy.deepcopy(prompted.pipe), prompted.adapter, image_encoder())
    assert own.to("cpu", torch.bfloat16) is own
    assert own.dtype == own.adapter.dtype == own.image_encoder.module.dtype == torch.bfloat16
    own.to(torch.float32)
    assert own.adapter.dtype == own.image_encoder.module.dtype == torch.float32
    own.to(device="meta", dtype=None)
    assert own.device.type == own.adapter.device.type == own.image_encoder.module.device.type == "meta"


def test_a_copy_is_a_pipeline_of_its_own(prompted):
    other = copy.deepcopy(prompted)
    assert other.pipe is not prompted.pipe
    drawn = (tiny_models.call(p, image_prompt=photo("red")) for p in (other, prompted))
    assert torch.equal(*drawn)


def test_the_repr_names_the_parts(prompted):
    text = repr(prompted)
    assert type(prompted.pipe).__name__ in text and "IPAdapter for" in text and "CLIP" in text
    assert f"{len(prompted.backbone.sites)} sites" in text
    assert "image_encoder=None" in repr(ImagePromptPipeline(prompted.pipe, prompted.adapter))


# --- saving and loading ----------------------------------------------------------------------------------------------


def test_a_saved_pipeline_generates_the_same_after_loading(prompted, encoder_folder, tmp_path):
    pipe = ImagePromptPipeline(prompted.pipe, prompted.adapter, encoder_folder)
    expected = tiny_models.call(pipe, image_prompt=photo("red"))
    pipe.save_pretrained(tmp_path / "saved")
    again = ImagePromptPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert again.image_encoder.path == str(encoder_folder)
    torch.testing.assert_close(tiny_models.call(again, image_prompt=photo("red")), expected, atol=1e-3, rtol=1e-3)
    plain = DiffusionPipeline.from_pretrained(tmp_path / "saved")  # the folder is the plain pipeline to others
    assert type(plain) is type(prompted.pipe)


def test_a_pipeline_whose_encoder_was_made_in_memory_cannot_be_saved(prompted, tmp_path):
    with pytest.raises(InputError, match="The image encoder was made in memory; save it"):
        prompted.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_model_and_an_adapter_are_loaded_by_name():
    prompted = ImagePromptPipeline.from_pretrained(
        "zoo:pixart-mini", "zoo:a4a-plus-pixart-mini", torch_dtype=torch.bfloat16, variant=None
    )
    assert prompted.dtype == prompted.image_encoder.module.dtype == torch.bfloat16
    assert prompted.adapter.dtype == torch.float32  # an A4A stays in it
    assert prompted.image_encoder.path == "zoo:clip-large/image_encoder"


def test_loading_a_model_without_an_adapter_is_refused():
    with pytest.raises(InputError, match="zoo:sd15-mini has no folder image_prompt_adapter; give adapter="):
        ImagePromptPipeline.from_pretrained("zoo:sd15-mini")


# --- the image encoder that the adapter names ------------------------------------------------------------------------


def test_the_encoder_that_the_adapter_names_is_loaded_at_once(sd15, encoder_folder):
    adapter = tiny_models.ip_adapter(sd15)
    adapter.set_image_encoder(str(encoder_folder))
    assert ImagePromptPipeline(sd15, adapter).image_encoder.path == str(encoder_folder)


def test_a_missing_encoder_is_refused_at_once(sd15, tmp_path):
    adapter = tiny_models.ip_adapter(sd15)
    adapter.set_image_encoder(str(tmp_path / "moved-away"))
    with pytest.raises(InputError, match=r"no image encoder folder .*moved-away"):
        ImagePromptPipeline(sd15, adapter)


def test_where_only_the_kind_of_encoder_is_known_an_error_says_which_one_to_give(sd15):
    adapter = tiny_models.ip_adapter(sd15)
    adapter.set_image_encoder("CLIP ViT-H/14")
    prompted = ImagePromptPipeline(sd15, adapter)
    tiny_models.call(prompted, image_prompt_embeds=tiny_models.embeds())
    with pytest.raises(InputError, match=r"\(CLIP ViT-H/14\); give the pipeline image_encoder=.*width 24"):
        tiny_models.call(prompted, image_prompt=photo("red"))


# --- what others have done to the denoiser ---------------------------------------------------------------------------


def test_a_denoiser_that_peft_has_wrapped_generates_the_same(prompted):
    expected = tiny_models.call(prompted, image_prompt=photo("red"))
    name = next(n for n, part in prompted.components.items() if part is prompted.backbone.denoiser)
    setattr(prompted, name, get_peft_model(prompted.backbone.denoiser, LoraConfig(r=2, target_modules=["to_q"])))
    for pipe in (prompted, ImagePromptPipeline(prompted.pipe, prompted.adapter, prompted.image_encoder)):
        assert torch.equal(tiny_models.call(pipe, image_prompt=photo("red")), expected)
        assert not is_attached(prompted.pipe.components[name])


def native_adapter(sites):
    """A checkpoint of one of diffusers' own IP-Adapters."""
    adapter = {}
    for i, site in enumerate(sites):
        adapter |= {f"{2 * i + 1}.to_{kind}_ip.weight": torch.zeros(site.width, tiny_models.TEXT) for kind in "kv"}
    projection = {
        "proj.weight": torch.zeros(4 * tiny_models.TEXT, tiny_models.EMBED),
        "proj.bias": torch.zeros(4 * tiny_models.TEXT),
        "norm.weight": torch.ones(tiny_models.TEXT),
        "norm.bias": torch.zeros(tiny_models.TEXT),
    }
    return {"image_proj": projection, "ip_adapter": adapter}


def test_a_pipeline_with_a_native_ip_adapter_is_refused_until_it_is_unloaded(sd15):
    own = tiny_models.with_own_denoiser(sd15)
    prompted = ImagePromptPipeline(own, tiny_models.ip_adapter(sd15))
    expected = tiny_models.call(prompted, image_prompt_embeds=tiny_models.embeds())
    prompted.load_ip_adapter(
        native_adapter(prompted.backbone.sites), subfolder="", weight_name=None, image_encoder_folder=None
    )
    sentence = r"StableDiffusionPipeline has one of diffusers' own IP-Adapters loaded .*call its unload_ip_adapter\(\)"
    with pytest.raises(InputError, match=sentence):
        tiny_models.call(prompted, image_prompt_embeds=tiny_models.embeds())
    with pytest.raises(InputError, match=sentence):
        ImagePromptPipeline(own, tiny_models.ip_adapter(sd15))
    prompted.unload_ip_adapter()
    assert torch.equal(tiny_models.call(prompted, image_prompt_embeds=tiny_models.embeds()), expected)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_two_threads_on_one_pipeline_both_get_their_own_image(prompted):
    """The second call starts while the first is in the middle of its denoising steps."""
    references = {"first": tiny_models.embeds(seed=1), "second": tiny_models.embeds(seed=2)}
    expected = {n: tiny_models.call(prompted, image_prompt_embeds=e) for n, e in references.items()}
    drawn, started = {}, threading.Event()
    denoiser = prompted.backbone.denoiser

    def let_the_second_come(*_):
        started.set()
        if threading.current_thread() is not second:
            second.join(0.2)

    hook = denoiser.register_forward_hook(let_the_second_come)

    def draw(name):
        drawn[name] = tiny_models.call(prompted, image_prompt_embeds=references[name])

    def draw_later():
        started.wait(60)
        draw("second")

    second = threading.Thread(target=draw_later)
    second.start()
    draw("first")
    second.join(60)
    hook.remove()
    assert all(torch.equal(drawn[name], expected[name]) for name in references)
    assert differ(drawn["first"], drawn["second"])


def test_two_pipelines_around_one_denoiser_wait_for_each_other(sd15):
    one, other = (ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15, seed)) for seed in (0, 1))
    expected = [tiny_models.call(p, image_prompt_embeds=tiny_models.embeds()) for p in (one, other)]
    drawn = {}

    def draw(number, pipe):
        drawn[number] = tiny_models.call(pipe, image_prompt_embeds=tiny_models.embeds())

    threads = [threading.Thread(target=draw, args=pair) for pair in enumerate((one, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.equal(drawn[i], expected[i]) for i in range(2))
