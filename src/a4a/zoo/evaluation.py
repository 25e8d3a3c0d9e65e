"""The world's benchmark task and its metrics: the same subjects, prompts and noise for every method."""

from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from a4a.adapters.base import ImagePromptAdapter
from a4a.encoders.base import Images, TorchImageEncoder
from a4a.encoders.clip import CLIPImageEncoder
from a4a.evaluation.generation import Sampling
from a4a.evaluation.methods import HeldOutPhoto
from a4a.evaluation.metrics import CLIPImageScore, GeneratedSet, Metric, Retrieval, Scores, Similarity
from a4a.evaluation.tasks.base import Task
from a4a.evaluation.validation import Validator
from a4a.utils.images import to_pil, to_tensor
from a4a.zoo.context import BuildContext, write_card
from a4a.zoo.drawing import draw
from a4a.zoo.registry import MODELS
from a4a.zoo.scorers import IdentityEncoder, SceneClassifier
from a4a.zoo.world import PLACES, SCENES, SIZES, Subjects, Views, caption

SAMPLING = Sampling(steps=15, guidance=3.0, size=64)


class WorldTask(Task):
    """Subjects of the world, with portraits as references.

    Every image has a view of its own, so that it shares nothing with the portrait but the subject.

    Args:
        split: validation while choosing anything, test for what is published.
        subjects: how many subjects.
        generations: images of each.
        domain: traits that all subjects share, a kind by trait (`{shape: tall}`); any by default.
    """

    def __init__(
        self,
        split: str = "test",
        subjects: int = 100,
        generations: int = 4,
        domain: dict[str, str] | None = None,
    ):
        self.creatures = Subjects.sample(subjects, split, domain)
        self.views = Views.sample(subjects * generations, 901)
        references = to_pil(draw(self.creatures, Views.sample(subjects, 900).as_portraits()))
        super().__init__([f"{split} {i}" for i in range(subjects)], references, caption(self.views, 902))

    def held_out_photo(self, index: int) -> Image.Image:
        """A fresh drawing of the subject, in the view that the prompt describes."""
        row = torch.tensor([index])
        return to_pil(draw(self.creatures[row // self.generations], self.views[row]))[0]


@cache
def _identity_encoder(models: Path) -> IdentityEncoder:
    return IdentityEncoder.from_pretrained(models / "identity", dtype=torch.float32).eval()


@cache
def _scene_classifier(models: Path) -> SceneClassifier:
    return SceneClassifier.from_pretrained(models / "scene", dtype=torch.float32).eval()


class Identity(TorchImageEncoder):
    """The zoo's identity encoder, which stands in for ArcFace; its embeddings have length one.

    Args:
        models: the zoo's folder.
    """

    def __init__(self, models: Path = MODELS):
        super().__init__(str(models), "cpu")
        self.key = f"identity {models}"

    def _load(self) -> tuple[IdentityEncoder, None]:
        return _identity_encoder(Path(self.model)), None

    @property
    def image_embed_dim(self) -> int:
        return self.module.config.image_embed_dim

    @torch.no_grad()
    def __call__(self, images: Images) -> Tensor:
        return self.module(images if isinstance(images, Tensor) else to_tensor(images))

    def unit_vectors(self, images: Images) -> Tensor:
        return self(images)  # normalised already


class PromptAccuracy(Metric):
    """Shares of images with the scene, the place and the size that the prompt names, by the zoo's classifier.

    Args:
        models: the zoo's folder.
    """

    def __init__(self, models: Path = MODELS):
        self.models = Path(models)

    @torch.no_grad()
    def __call__(self, generated: GeneratedSet) -> Scores:
        images = to_tensor([image for row in generated.images for image in row])
        logits = [_scene_classifier(self.models)(part) for part in images.split(200)]
        found = [torch.cat(parts).argmax(1) for parts in zip(*logits, strict=True)]
        named = torch.tensor([parse_caption(prompt) for row in generated.prompts for prompt in row]).unbind(1)
        shape = (generated.subjects, generated.generations)
        return {
            name: (f == n).double().reshape(shape).numpy()
            for name, f, n in zip(("scene", "place", "size"), found, named, strict=True)
        }


def parse_caption(text: str) -> list[int]:
    """Scene, place and size that a caption of the world names, as indices into SCENES, PLACES and SIZES."""
    return [int(np.argmax([word in text for word in kinds])) for kinds in (SCENES, PLACES, SIZES)]


def world_metrics(models: Path = MODELS) -> list[Metric]:
    """What the zoo's models are measured by: identity, retrieval, CLIP image score, and prompt accuracy."""
    encoder = Identity(models)
    return [
        Similarity(encoder, "identity"),
        Retrieval(encoder),
        CLIPImageScore(str(models / "clip-large" / "image_encoder")),
        PromptAccuracy(models),
    ]


class WorldValidator(Validator):
    """Scores on subjects of the world that nothing was trained on.

    Args:
        split: validation while choosing anything, test for what is published.
        subjects: how many subjects.
        generations: images of each, every one in a view of its own.
        models: the zoo's folder.
        scale: weight of the image prompt.
        grid_subjects: subjects in the image grid that is kept.
        domain: traits that all subjects share, a kind by trait (`{shape: tall}`); any by default.
    """

    def __init__(
        self,
        split: str = "validation",
        subjects: int = 64,
        generations: int = 1,
        models: Path = MODELS,
        scale: float = 1.0,
        grid_subjects: int = 12,
        domain: dict[str, str] | None = None,
    ):
        super().__init__(
            WorldTask(split, subjects, generations, domain),
            world_metrics(Path(models)),
            SAMPLING,
            scale,
            batch=50,
            grid_subjects=grid_subjects,
        )


def _test_validator(context: BuildContext) -> WorldValidator:
    return WorldValidator("test", context.subjects, context.generations, context.models)


def write_test_scores(
    context: BuildContext, target: Path, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, samples: int
) -> None:
    """Publish a model's scores on the test subjects, images of some of them, and how many samples it was trained on."""
    result = _test_validator(context)(pipe, adapter, CLIPImageEncoder.from_pretrained(context.image_encoder))
    result.samples.save(target / "samples.webp", quality=85, method=6)
    write_card(target, {"samples": samples, **{name: asdict(estimate) for name, estimate in result.scores.items()}})


def build_ceiling(context: BuildContext, name: str, target: Path) -> None:
    """Stage without a model: the scores of fresh drawings of the test subjects, the ceiling of all other scores."""
    test = _test_validator(context)
    drawings = HeldOutPhoto().generate(test.task, range(len(test.task)), [])
    write_card(target, {score: asdict(estimate) for score, estimate in test.score(drawings).items()})
