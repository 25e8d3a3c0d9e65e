"""What can be wrong with an experiment, found before the first run is trained."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from a4a.errors import InputError
from a4a.evaluation.claims import Claim
from a4a.evaluation.metrics.base import GeneratedSet, Metric
from a4a.evaluation.tasks.base import Task
from a4a.experiments.savings import Savings
from a4a.transfer.recipe import check_adapter, check_recipe
from a4a.utils.settings import did_you_mean

TRIAL_SUBJECTS = 4
"""Subjects whose references every metric scores: enough for one that compares sets (KID needs three)."""
TRAINED = "variant (of another method, a claim of kind fewer_samples can name b_samples)"
ADAPTER = ("model", "image_encoder", "source", "method", "init")
"""The arguments of `a4a transfer` that decide what the adapter is."""


def check_claims(
    claims: Sequence[Claim],
    savings: Savings | None,
    variants: Iterable[str],
    others: Iterable[str],
    scores: Sequence[str],
) -> None:
    """InputError for a claim or a table about a method or a curve that the experiment does not have.

    Args:
        variants: names of what is trained, which alone has curves.
        others: names of the extra methods.
        scores: whose curves are kept.
    """
    variants = list(variants)
    names = [*variants, *others]
    for claim in claims:
        what = f"The claim {claim.description!r}"
        check_names(what, [name for name in (claim.a, claim.b, claim.reference) if name is not None], names)
        if claim.needs_curves:
            curves = [claim.a] if claim.b_samples is not None else [claim.a, claim.b]
            check_names(f"{what}, which compares curves,", curves, variants, TRAINED)
            _check_score(what, claim.score, scores)
    if savings is not None:
        check_names("savings.method", [savings.method], variants, TRAINED)
        check_names("savings.reference", [savings.reference], names)
        _check_score("savings", savings.score, scores)


def check_names(what: str, given: Iterable[str], names: Sequence[str], kind: str = "variant or extra method") -> None:
    """InputError for a name that is none of the known ones."""
    for name in given:
        if name not in names:
            raise InputError(
                f"{what} is about {name!r}, which is no {kind}{did_you_mean(name, names)} "
                f"Those are: {', '.join(names)}."
            )


def _check_score(what: str, score: str, scores: Sequence[str]) -> None:
    if score not in scores:
        raise InputError(
            f"{what} is about the curve of {score}; the curves (scores) are of {', '.join(scores)}: add it there."
        )


def check_variants(arguments: dict[str, dict[str, Any]]) -> None:
    """Builds all that the variants name: settings, adapter (without weights), data, and the metrics of the evaluation.

    Args:
        arguments: by variant, the arguments of `a4a transfer`.

    What several variants share is built once. Raises InputError that names the variant.
    """
    seen: set[str] = set()
    for name, settings in arguments.items():
        try:
            _check_variant(settings, seen)
        except InputError as error:
            raise InputError(f"The variant {name!r}: {error}") from error


def _check_variant(settings: dict[str, Any], seen: set[str]) -> None:
    recipe = check_recipe(settings)
    recipe.build(only=("objective", "training", "precision"))
    if _is_new(seen, settings, ADAPTER):
        check_adapter(**recipe.build(only=ADAPTER))
    if _is_new(seen, settings, ("data",)):
        recipe.build(only=("data",))
    if _is_new(seen, settings, ("evaluation",)):
        _check_evaluation(recipe.build(only=("evaluation",)))


def _is_new(seen: set[str], settings: dict[str, Any], names: tuple[str, ...]) -> bool:
    """Whether no variant before had these settings; they count as seen from then on."""
    key = json.dumps({name: settings.get(name) for name in names}, sort_keys=True, default=str)
    is_new = key not in seen
    seen.add(key)
    return is_new


def _check_evaluation(built: dict[str, Any]) -> None:
    if (validator := built["evaluation"]) is not None:
        check_metrics(validator.metrics, validator.task, "evaluation.metrics")


def check_metrics(metrics: Sequence[Metric], task: Task, where: str) -> None:
    """Loads every metric and lets it score a few references as if they were generated; InputError names the metric."""
    references = task.references[:TRIAL_SUBJECTS]
    rows = range(len(references))
    each = task.generations
    prompts = [task.prompts[i * each : (i + 1) * each] for i in rows]
    trial = GeneratedSet(references, prompts, [[reference] * each for reference in references])
    for i, metric in enumerate(metrics):
        try:
            metric(trial)
        except InputError as error:
            raise InputError(f"{where}[{i}] ({type(metric).__name__}): {error}") from error
