"""The world's tasks and judges: the same subjects, prompts and noise for every method."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from a4a.encoders.base import Images, TorchImageEncoder
from a4a.evaluation.generation import Sampling
from a4a.evaluation.metrics import CLIPImageScore, GeneratedSet, Metric, Retrieval, Scores, Similarity
from a4a.evaluation.tasks.base import Task
from a4a.evaluation.validation import Validator
from a4a.utils.images import to_pil, to_tensor
from a4a.zoo.drawing import draw
from a4a.zoo.registry import MODELS
from a4a.zoo.scorers import IdentityEncoder, SceneClassifier
from a4a.zoo.world import PLACES, SCENES, SIZES, Subjects, Views, caption

SAMPLING = Sampling(steps=15, guidance=3.0, size=64)


class WorldTask(Task):
    """Creatures of the world, by their portraits; every picture in a view of its own, which shares nothing with the portrait but the creature.

    Args:
        split: validation while choosing anything, test for what is published.
        subjects: how many creatures.
        generations: pictures of each.
    """

    def __init__(self, split: str = "test", subjects: int = 100, generations: int = 4):
        self.creatures = Subjects.sample(subjects, split)
        self.views = Views.sample(subjects * generations, 901)
        references = to_pil(draw(self.creatures, Views.sample(subjects, 900).as_portraits()))
        super().__init__([f"{split} {i}" for i in range(subjects)], references, caption(self.views, 902))

    def held_out_photo(self, picture: int) -> Image.Image:
        """A fresh drawing of the creature, as prompted."""
        row = torch.tensor([picture])
        return to_pil(draw(self.creatures[row // self.generations], self.views[row]))[0]


@cache
def _identity(models: Path) -> IdentityEncoder:
    return IdentityEncoder.from_pretrained(models / "identity", dtype=torch.float32).eval()  # pyright: ignore[reportArgumentType]


@cache
def _scene(models: Path) -> SceneClassifier:
    return SceneClassifier.from_pretrained(models / "scene", dtype=torch.float32).eval()  # pyright: ignore[reportArgumentType]


class Identity(TorchImageEncoder):
    """The zoo's identity encoder, which stands in for ArcFace; its embeddings have length one.

    Args:
        models: the zoo's folder.
    """

    def __init__(self, models: Path = MODELS):
        super().__init__(str(models), "cpu")
        self.key = f"identity {models}"

    def _load(self) -> tuple[IdentityEncoder, None]:
        return _identity(Path(self.model)), None

    @property
    def image_embed_dim(self) -> int:
        return self.module.config.embed

    @torch.no_grad()
    def __call__(self, images: Images) -> Tensor:
        return self.module(images if isinstance(images, Tensor) else to_tensor(images))

    def unit_vectors(self, images: Images) -> Tensor:
        return self(images)  # normalised already


class PromptAccuracy(Metric):
    """Shares of pictures with the scene, the place and the size that the prompt asks for, by the zoo's classifier.

    Args:
        models: the zoo's folder.
    """

    def __init__(self, models: Path = MODELS):
        self.models = Path(models)

    @torch.no_grad()
    def __call__(self, generated: GeneratedSet) -> Scores:
        pictures = to_tensor([p for row in generated.images for p in row])
        chunks = [_scene(self.models)(p) for p in pictures.split(200)]
        seen = [torch.cat(parts).argmax(1) for parts in zip(*chunks, strict=True)]
        wanted = torch.tensor([asked(p) for row in generated.prompts for p in row]).unbind(1)
        shape = (generated.subjects, generated.generations)
        return {
            n: (s == w).double().reshape(shape).numpy()
            for n, s, w in zip(("scene", "place", "size"), seen, wanted, strict=True)
        }


def asked(prompt: str) -> list[int]:
    """Scene, place and size that a caption of the world names, as indices."""
    return [int(np.argmax([word in prompt for word in kinds])) for kinds in (SCENES, PLACES, SIZES)]


def world_metrics(models: Path = MODELS) -> list[Metric]:
    """What is scored of a picture alone."""
    encoder = Identity(models)
    return [
        Similarity(encoder, "identity"),
        Retrieval(encoder),
        CLIPImageScore(str(models / "clip-large" / "image_encoder")),
        PromptAccuracy(models),
    ]


class WorldValidator(Validator):
    """Scores on creatures of the world that nothing was trained on.

    Args:
        split: validation while choosing anything, test for what is published.
        subjects: how many creatures.
        generations: pictures of each, every one in a view of its own.
        models: the zoo's folder.
        scale: weight of the image prompt.
        shown: subjects in the picture that is kept.
    """

    def __init__(
        self,
        split: str = "validation",
        subjects: int = 64,
        generations: int = 1,
        models: Path = MODELS,
        scale: float = 1.0,
        grid_subjects: int = 12,
    ):
        super().__init__(
            WorldTask(split, subjects, generations),
            world_metrics(Path(models)),
            SAMPLING,
            scale,
            batch=50,
            grid_subjects=grid_subjects,
        )
