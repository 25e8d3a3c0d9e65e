"""The models and adapters that the page offers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from a4a.backbones import Backbone
from a4a.errors import InputError
from a4a.zoo.adapters import IMAGE_ENCODER
from a4a.zoo.build import read_recipe
from a4a.zoo.registry import RECIPE

STEPS, GUIDANCE = 15, 3.0
"""With which the zoo's models are scored."""
FIRST_MODEL = "pixart-mini"
"""Of the zoo, the model that the page opens with."""


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter for one model."""

    label: str
    """What the page calls it, unique for its model."""
    path: str
    """Folder, file, hub name or zoo:NAME."""
    image_encoder: str | None = None
    """By default the one that the adapter names."""
    source: str | None = None
    """Which of its sources it is used with, where it has several."""


@dataclass(frozen=True)
class ModelChoice:
    """A model, and the adapters that fit it, the one that is chosen first at the head."""

    label: str
    path: str
    adapters: tuple[AdapterChoice, ...]
    steps: int = STEPS
    """Denoising steps that the page begins with."""
    guidance: float = GUIDANCE
    """Likewise the guidance scale."""


@dataclass(frozen=True)
class Catalogue:
    """All that can be chosen."""

    models: tuple[ModelChoice, ...]
    zoo: bool
    """Whether the models are the zoo's, which draw creatures and can be trained in minutes."""
    stages: dict[str, dict[str, Any]]
    """The zoo's adapters for upgraded models, by name: their stages in the zoo's recipe."""

    def model(self, label: str) -> ModelChoice:
        """InputError where there is no such model."""
        for model in self.models:
            if model.label == label:
                return model
        raise InputError(f"There is no model {label}; choose one of {', '.join(m.label for m in self.models)}.")


def find_adapter(model: ModelChoice, own: tuple[AdapterChoice, ...], label: str) -> AdapterChoice:
    """An adapter of a model, or one of a visitor's `own`; InputError where there is none of this label."""
    for adapter in (*model.adapters, *own):
        if adapter.label == label:
            return adapter
    known = ", ".join(adapter.label for adapter in (*model.adapters, *own))
    raise InputError(f"There is no adapter {label} for {model.label}; choose one of {known}.")


def given_choice(model: str, adapter: str, image_encoder: str | None, source: str | None) -> ModelChoice:
    """One model with one adapter."""
    return ModelChoice(model, model, (AdapterChoice(adapter, adapter, image_encoder, source),))


def given_catalogue(choice: ModelChoice, backbone: Backbone) -> Catalogue:
    """A model alone; the page begins with the steps and the guidance that its pipeline has by default."""
    guidance = next(iter(backbone.guidance_options(1.0, 1)))
    steps = backbone.default("num_inference_steps")
    model = replace(choice, steps=steps, guidance=backbone.default(guidance))
    return Catalogue((model,), zoo=False, stages={})


def zoo_catalogue() -> Catalogue:
    """The zoo's text-to-image models that have adapters, by the recipe that it was built with."""
    stages = {n: s for n, s in read_recipe(RECIPE).items() if isinstance(s.get("model"), str) and _is_built(n)}
    sources = {stage["source"] for stage in stages.values() if "source" in stage}
    models = dict.fromkeys(stage["model"] for stage in stages.values())
    choices = []
    for model in sorted(models, key=lambda name: name != FIRST_MODEL):
        own = {name: stage for name, stage in stages.items() if stage["model"] == model}
        ordered = sorted(own, key=lambda name: ("source" not in own[name], name not in sources))
        adapters = tuple(AdapterChoice(_label(n, own[n], n in sources), f"zoo:{n}", IMAGE_ENCODER) for n in ordered)
        choices.append(ModelChoice(model, f"zoo:{model}", adapters, steps=STEPS, guidance=GUIDANCE))
    bases = {stages[name]["model"] for name in sources}
    upgraded = {name: stage for name, stage in stages.items() if stage["model"] not in bases}
    return Catalogue(tuple(choices), zoo=True, stages=upgraded)


def _is_built(name: str) -> bool:
    return (RECIPE.parent / "models" / Path(name) / "figures.json").is_file()


def _label(name: str, stage: dict[str, Any], is_source: bool) -> str:
    """Method, family and training samples of an adapter of the zoo."""
    samples = f"{stage['training']['samples']:,} samples"
    if "source" in stage:
        return f"A4A, transferred in {samples}"
    family = "IP-Adapter Plus" if stage.get("method", {}).get("family") == "plus" else "IP-Adapter"
    return f"{family}, {'the source of the transfers' if is_source else f'from scratch in {samples}'}"
