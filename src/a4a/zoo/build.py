"""`a4a zoo build`: every model of the zoo from nothing, a stage at a time.

A stage is a function of its recipe (`recipe.yaml` beside this file) that leaves one folder of models. A stage whose folder exists is
not run again; a stage that was stopped goes on from its checkpoint.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import DiffusionPipeline
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    T5EncoderModel,
)

from a4a.adapters import formats
from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import backbone_for, load_pipeline
from a4a.backbones.unet import UNet
from a4a.data.cached import encode_images
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError, first_line
from a4a.evaluation.methods import HeldOutPhoto
from a4a.evaluation.scoring import compute_scores, generated_set, summarize
from a4a.training.config import TrainingConfig
from a4a.training.denoising import ConditionDropout, Denoising, LearningRates, ObjectiveConfig
from a4a.training.trainer import train
from a4a.transfer.config import A4AConfig, IPAdapterConfig
from a4a.transfer.run import transfer
from a4a.utils.files import atomic_write
from a4a.zoo import clip as perception
from a4a.zoo import denoisers
from a4a.zoo import t5 as language
from a4a.zoo.autoencoder import Reconstruction, vae_model
from a4a.zoo.dataset import Drawings, WorldImages
from a4a.zoo.denoisers import TraitConditioned
from a4a.zoo.evaluation import WorldValidator
from a4a.zoo.scorers import Classification, IdentityEncoder, Recognition, SceneClassifier
from a4a.zoo.tokenizers import LENGTH, clip_tokenizer, t5_tokenizer
from a4a.zoo.world import describe


@dataclass
class BuildContext:
    """Where stages put what they make, and where they keep unfinished runs."""

    models: Path
    runs: Path
    subjects: int = 100
    generations: int = 4
    """Of the test that every finished model takes."""
    validation: int = 64
    """Subjects that adapters are scored on while they are trained."""

    @property
    def test(self) -> WorldValidator:
        return WorldValidator("test", self.subjects, self.generations, self.models)

    @property
    def image_encoder(self) -> Path:
        return self.models / "clip-large" / "image_encoder"

    def run(self, stage: str, objective, dataset, training: dict[str, Any], **kwargs) -> None:
        train(
            objective, dataset, TrainingConfig(**training), self.runs / stage, resume=True, description=stage, **kwargs
        )


STAGES: dict[str, Callable[..., None]] = {}


def stage(function: Callable[..., None]) -> Callable[..., None]:
    STAGES[function.__name__.replace("_", "-")] = function
    return function


@stage
def vae(
    context: BuildContext,
    target: Path,
    training: dict,
    subjects: int,
    widths: list[int],
    rate: float,
    edges: float,
    prior: float,
) -> None:
    """The autoencoder that all denoisers share: 64 x 64 pixels to 8 x 8 latents of 8 channels."""
    model = vae_model(tuple(widths)).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    dataset = Drawings("vae", subjects)
    context.run("vae", Reconstruction(model, rate, edges, prior), dataset, training)
    model = model.to(memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]
    held = Drawings("validation", 500).batch(torch.arange(500))["pictures"][:, 0]
    with torch.no_grad():
        latents = torch.cat([model.encode(p * 2 - 1).latent_dist.sample() for p in held.split(100)])
        painted = torch.cat([model.decode(z).sample for z in latents.split(100)])
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    error = ((painted / 2 + 0.5).clamp(0, 1) - held).square().mean((1, 2, 3))
    model.half().save_pretrained(target)
    card(target, {"psnr_held_out": float((-10 * error.log10()).mean()), "images": len(held)})


def _clip(
    context: BuildContext, name: str, target: Path, training: dict, data: dict, guided: bool, rate: float, shape: dict
) -> None:
    tokenizer = clip_tokenizer()
    model = perception.clip_model(len(tokenizer), tokenizer.convert_tokens_to_ids(tokenizer.eos_token), **shape)  # pyright: ignore[reportArgumentType]
    context.run(name, perception.Contrast(model, rate, guided), perception.Captioned(tokenizer, **data), training)
    model.eval()
    held = Drawings("validation", 256)
    pictures = held.batch(torch.arange(256))["pictures"][:, 0]
    lines = describe(held.subjects, held.views[0], 3)
    ids = tokenizer(lines, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=perception.clip_pixels(pictures)).logits_per_image
    right = logits.argmax(1) == torch.arange(256)
    model.half().save_pretrained(target)
    tokenizer.save_pretrained(target / "tokenizer")
    CLIPTextModel.from_pretrained(target).save_pretrained(target / "text_encoder")
    CLIPTextModelWithProjection.from_pretrained(target).save_pretrained(target / "text_encoder_with_projection")
    CLIPVisionModelWithProjection.from_pretrained(target).save_pretrained(target / "image_encoder")
    size = {"height": 64, "width": 64}
    CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=size).save_pretrained(target / "image_encoder")
    card(target, {"caption_of_256_found": float(right.float().mean()), "images": 256})


@stage
def clip_small(context: BuildContext, target: Path, **recipe) -> None:
    """The CLIP whose text tower conditions sd15-mini (and is sdxl-mini's first text encoder)."""
    _clip(context, "clip-small", target, **recipe)


@stage
def clip_medium(context: BuildContext, target: Path, **recipe) -> None:
    """The CLIP whose text tower is sdxl-mini's second text encoder."""
    _clip(context, "clip-medium", target, **recipe)


@stage
def clip_large(context: BuildContext, target: Path, **recipe) -> None:
    """The CLIP whose vision tower is the adapters' image encoder."""
    _clip(context, "clip-large", target, **recipe)


@stage
def t5(
    context: BuildContext, target: Path, training: dict, sentences: int, rate: float, width: int, layers: int
) -> None:
    """The text encoder of pixart-mini, trained by span corruption."""
    tokenizer = t5_tokenizer()
    model = language.t5_model(len(tokenizer), width, layers)
    sentinel = int(tokenizer.convert_tokens_to_ids("<extra_id_0>"))  # pyright: ignore[reportArgumentType]
    context.run(
        "t5", language.SpanCorruption(model, sentinel, rate), language.Sentences(tokenizer, sentences), training
    )
    encoder = T5EncoderModel(model.config)
    encoder.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith(("shared", "encoder"))})
    encoder.half().save_pretrained(target / "text_encoder")
    tokenizer.save_pretrained(target / "tokenizer")
    card(target, {})


@stage
def identity(context: BuildContext, target: Path, training: dict, subjects: int, rate: float) -> None:
    """The judge of identity; it plays the part of ArcFace and no adapter ever sees it.

    Half of what it learns from went through the autoencoder: as ArcFace minds no JPEG, it shall judge adapters and not that.
    """
    model = IdentityEncoder()
    dataset = Drawings("identity", subjects, views=2, vae=denoisers.vae(context.models))
    context.run("identity", Recognition(model, rate), dataset, training)
    pictures = Drawings("validation", 100, views=2).batch(torch.arange(100))["pictures"]
    with torch.no_grad():
        first, second = model.eval()(pictures[:, 0]), model(pictures[:, 1])
    model.half().save_pretrained(target)
    found = (first @ second.T).argmax(1) == torch.arange(100)
    card(
        target,
        {"cosine_of_two_drawings": float((first * second).sum(1).mean()), "found_of_100": float(found.float().mean())},
    )


@stage
def scene(context: BuildContext, target: Path, training: dict, subjects: int, rate: float) -> None:
    """The judge of scene, place and size."""
    model = SceneClassifier()
    context.run("scene", Classification(model, rate), Drawings("identity", subjects), training)
    held = Drawings("validation", 500).batch(torch.arange(500))
    with torch.no_grad():
        parts = model.eval()(held["pictures"][:, 0])
    right = torch.stack([p.argmax(1) == held["kinds"][:, 0, i] for i, p in enumerate(parts)])
    model.half().save_pretrained(target)
    card(target, dict(zip(("scene", "place", "size"), right.float().mean(1).tolist(), strict=True)))


@stage
def ceiling(context: BuildContext, target: Path) -> None:
    """The ceiling of every score: a fresh drawing of each test subject, as prompted."""
    target.mkdir(parents=True, exist_ok=True)
    ask = context.test
    drawn = generated_set(ask.task, HeldOutPhoto().generate(ask.task, range(len(ask.task)), []))
    card(target, {name: asdict(estimate) for name, estimate in summarize(compute_scores(ask.metrics, drawn)).items()})


def _denoiser(
    context: BuildContext,
    name: str,
    pipe,
    target: Path,
    training: dict,
    data: dict,
    rate: float,
    told: dict,
    compile: bool = False,
) -> None:
    """Trains a whole denoiser on drawings and captions; a text is left out one time in ten. Then it is told of traits."""
    backbone = backbone_for(pipe)
    pictures = WorldImages("train", **data)
    dataset = encode_images(pictures, backbone, None, context.runs / "cache")
    objective = Denoising(backbone, None, ObjectiveConfig(rates=LearningRates(denoiser=rate)))
    objective.config.dropping.image = 0.0  # what `both` drops is the text alone here
    if compile:
        backbone.denoiser.compile()
    context.run(name, objective, dataset, training)
    dataset.embeds = pictures.subjects[pictures.pairs[:, 0].unique()].numbers()
    lessons = TraitConditioned(backbone, LearningRates(**told["rates"]))
    context.run(f"{name}-told", lessons, dataset, told["training"])
    lessons.detach()
    pipe.to(dtype=torch.float16).save_pretrained(target)
    pipe.to(dtype=torch.float32)
    _measure(context, target, pipe, None, training["samples"] + told["training"]["samples"])


@stage
def sd15_mini(context: BuildContext, target: Path, model: dict, **recipe) -> None:
    """The base model."""
    _denoiser(context, "sd15-mini", denoisers.sd15_mini(context.models, **model), target, **recipe)


@stage
def sdxl_mini(context: BuildContext, target: Path, model: dict, **recipe) -> None:
    """The upgraded U-Net."""
    _denoiser(context, "sdxl-mini", denoisers.sdxl_mini(context.models, **model), target, **recipe)


@stage
def pixart_mini(context: BuildContext, target: Path, model: dict, **recipe) -> None:
    """The upgraded transformer."""
    _denoiser(context, "pixart-mini", denoisers.pixart_mini(context.models, **model), target, **recipe)


def _adapter(
    context: BuildContext,
    name: str,
    target: Path,
    model: str,
    data: dict,
    training: dict,
    source: str | None = None,
    **recipe,
) -> None:
    """Trains an adapter by the same code as `a4a transfer`, and measures it on the test subjects."""
    method = (A4AConfig if source else IPAdapterConfig)(**recipe.get("method", {}))
    objective = ObjectiveConfig(**recipe.get("objective", {}))
    objective.rates, objective.dropping = (
        LearningRates(**recipe.get("rates", {})),
        ConditionDropout(**recipe.get("dropping", {})),
    )
    adapter = transfer(
        model=context.models / model,
        data=WorldImages("train", **data),
        image_encoder=context.image_encoder,
        output=context.runs / name,
        source=context.models / source if source else None,
        method=method,
        objective=objective,
        training=TrainingConfig(**training),
        evaluation=WorldValidator("validation", context.validation, models=context.models),
        cache=context.runs / "cache",
        resume=True,
    )
    pipe = load_pipeline(context.models / model)
    if isinstance(adapter, IPAdapter) and isinstance(backbone_for(pipe), UNet):
        formats.write(adapter, target / f"{name}.safetensors")
    else:
        adapter.set_image_encoder("zoo:clip-large/image_encoder")  # wherever the package is installed  # pyright: ignore[reportOptionalMemberAccess]
        adapter.half().save_pretrained(target)  # pyright: ignore[reportOptionalMemberAccess]
    shutil.copy(context.runs / name / "log.csv", target / "log.csv")
    adapter.float()  # pyright: ignore[reportOptionalMemberAccess]
    _measure(context, target, pipe, adapter, training["samples"])


def _measure(
    context: BuildContext, target: Path, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, samples: int
) -> None:
    """What is published of a model: its scores on the test subjects, and pictures of some."""
    result = context.test(pipe, adapter, CLIPImageEncoder.from_pretrained(context.image_encoder))
    result.samples.save(target / "samples.png")
    card(target, {"samples": samples, **{score: asdict(estimate) for score, estimate in result.scores.items()}})


def card(target: Path, figures: dict[str, Any]) -> None:
    """The figures of a model, for programs (`figures.json`) and for people (`README.md`, after what an adapter says of itself)."""
    (target / "figures.json").write_text(json.dumps(figures, indent=1))
    rows = []
    for name, value in figures.items():
        interval = (
            f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}], {value['subjects']} subjects"
            if isinstance(value, dict)
            else value
        )
        rows.append(f"| {name} | {interval} |")
    readme = target / "README.md"
    lines = [
        readme.read_text() if readme.exists() else "# A miniature model of the a4a zoo\n",
        "| held out | |",
        "|---|---|",
        *rows,
        "",
        "Recipe and seed: `src/a4a/zoo/recipe.yaml`; made again by `a4a zoo build`.",
        "",
    ]
    readme.write_text("\n".join(lines))


def load_in_float32(folder: Path) -> None:
    """Let transformers load the half-precision weights of a folder as float32, as diffusers loads its own models.

    A pipeline that diffusers loads without `dtype` would otherwise mix a float16 text encoder with a float32 denoiser.
    """
    for config in folder.rglob("config.json"):
        config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))


def read_recipe(path: Path) -> dict[str, dict]:
    """The stages of a zoo recipe by name; InputError where it cannot be read."""
    try:
        return yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"There is no recipe {path}; give a YAML file with a stage a key.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML ({first_line(error)}).") from error


def build(recipe: dict[str, dict], models: Path, runs: Path, stages: list[str] | None = None, **test: int) -> None:
    """Run the stages that are not finished, in the order of the recipe. `test`: settings of `BuildContext`."""
    context = BuildContext(models, runs, **test)
    for name in stages or recipe:
        if name not in recipe:
            raise InputError(f"The zoo's recipe has no stage {name}; choose from {', '.join(recipe)}.")
        if (models / name).exists():
            continue
        torch.manual_seed(0)
        with atomic_write(models / name) as target:
            target.mkdir(parents=True)
            STAGES.get(name, partial(_adapter, name=name))(context, target=target, **recipe[name])
            load_in_float32(target)
