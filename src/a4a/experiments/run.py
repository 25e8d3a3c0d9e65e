"""`a4a experiment`: variants of one transfer, several seeds of each, and the claims that their scores decide."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from a4a.errors import InputError
from a4a.evaluation.claims import Claim
from a4a.evaluation.evaluate import evaluate
from a4a.evaluation.generation import Sampling
from a4a.evaluation.methods import ImagePromptMethod, Method
from a4a.evaluation.metrics.base import Metric
from a4a.evaluation.tasks.base import Task
from a4a.experiments.checks import check_claims, check_metrics, check_names, check_variants
from a4a.experiments.savings import Savings
from a4a.training import distributed
from a4a.transfer.recipe import check_recipe
from a4a.transfer.run import transfer
from a4a.utils.files import atomic_write, slug, write_json
from a4a.utils.settings import did_you_mean, flat, merged

ARGUMENTS = "arguments.json"
"""The arguments of `a4a transfer`, in the folder of a run that is finished."""


@dataclass
class Final:
    """What the finished adapters are scored on."""

    task: Task
    metrics: list[Metric]
    sampling: Sampling = field(default_factory=Sampling)
    batch: int = 8
    extra_methods: dict[str, Method] = field(default_factory=dict)
    """Methods that are not trained here: the floor, the ceiling, the adapter on its own base."""


@dataclass(frozen=True)
class Run:
    """One training run: a variant with a seed."""

    variant: str
    seed: int
    folder: Path
    arguments: dict[str, Any]
    """Of `a4a transfer`."""

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def sources(self) -> dict[str, str | None]:
        """By the name of a method, the source with which it uses the adapter; None where there is but one."""
        return method_names(self.variant, self.arguments)

    @property
    def is_finished(self) -> bool:
        return (self.folder / ARGUMENTS).exists()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result: runs of the same settings are the same wherever they are."""
        return {name: value for name, value in self.arguments.items() if name != "output"}


def experiment(
    title: str,
    recipe: dict,
    variants: dict[str, dict],
    output: Path,
    final: Final | None = None,
    seeds: list[int] = [0],  # noqa: B006
    scores: list[str] = ["identity"],  # noqa: B006
    description: str = "",
    claims: list[Claim] = [],  # noqa: B006
    savings: Savings | None = None,
    paper: dict[str, str] = {},  # noqa: B006
    part: Literal["headline", "figure", "ablation"] = "figure",
    only: list[str] | None = None,
) -> None:
    """Train every variant of a transfer with every seed, and score the adapters; what is finished is not run again.

    Args:
        title: Heading in the report.
        recipe: The arguments of `a4a transfer` that all variants share.
        variants: By name, the arguments in which each differs.
        output: Folder for the runs, OUTPUT/VARIANT/seedN, the final scores, OUTPUT/final, and the scores of the extra
            methods on the recipe's evaluation, OUTPUT/validation.
        final: What the finished adapters are scored on.
        seeds: Each trains every variant once.
        scores: Columns of the logs that the report draws.
        description: Sentences for the report: what this shows in the paper.
        claims: Statements that the report decides.
        savings: Table of the samples that each variant needs to reach shares of a method's score.
        paper: By the name of a variant or extra method, what the paper reports of it, in words.
        part: Where the report shows this: at its head, among the figures, or among the ablations behind them.
        only: Train these variants alone; others are scored where they are finished.
    """
    if not variants or not seeds:
        raise InputError(f"The experiment {title!r} has no variants or no seeds; give at least one of each.")
    for name in only or ():
        if name not in variants:
            raise InputError(f"There is no variant {name!r}{did_you_mean(name, variants)} See variants in the recipe.")
    extra_methods = final.extra_methods if final is not None else {}
    sources = {
        name: (variant, source)
        for variant, change in variants.items()
        for name, source in method_names(variant, merged(recipe, change)).items()
    }
    check_claims(claims, savings, sources, extra_methods, scores)
    check_names("paper", paper, [*sources, *extra_methods])
    runs = [_run(recipe, change, output, name, seed) for name, change in variants.items() for seed in seeds]
    runs = [run for run in runs if not only or run.variant in only or run.is_finished]
    for run in runs:
        _check_finished(run)
    check_variants({run.variant: run.arguments for run in reversed(runs) if not run.is_finished})
    if final is not None:
        check_metrics(final.metrics, final.task, "final.metrics")

    for run in runs:
        _train(run, title)
    if not distributed.state().is_main_process:
        return
    manifest = {  # what `a4a report` reads
        "title": title,
        "description": description,
        "part": part,
        "variants": {name: slug(variant) for name, (variant, _) in sources.items()},
        "sources": {name: source for name, (_, source) in sources.items() if source is not None},
        "seeds": seeds,
        "scores": scores,
        "claims": [asdict(claim) for claim in claims],
        "savings": asdict(savings) if savings else None,
        "paper": paper,
    }
    write_json(output / "experiment.json", manifest, indent=1)
    if final is not None:
        _score_extra_methods(recipe, final, output)
        trained = {
            f"{name}, seed {run.seed}": _method(run, source, final.sampling)
            for run in runs
            for name, source in run.sources.items()
        }
        methods = final.extra_methods | trained
        evaluate(final.task, methods, final.metrics, output / "final", batch=final.batch)


def _run(recipe: dict, change: dict, output: Path, variant: str, seed: int) -> Run:
    folder = output / slug(variant) / f"seed{seed}"
    own = {"output": str(folder), "training": {"seed": seed}, "resume": True}
    return Run(variant, seed, folder, merged(merged(recipe, change), own))


def _check_finished(run: Run) -> None:
    """InputError where a finished run was trained with other settings than the recipe has now."""
    if not run.is_finished:
        return
    before, now = flat(json.loads((run.folder / ARGUMENTS).read_text())), flat(run.settings)
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise InputError(
                f"{run.folder} was trained with {name} {before.get(name)} and the recipe now says {now.get(name)}; "
                "remove that folder or choose another output."
            )


def _train(run: Run, title: str) -> None:
    """Trains a run that is not finished, or copies one of the same settings from an experiment in a folder beside."""
    if run.is_finished:
        return
    print(f"{title}: {run.name}")
    settings = json.dumps(run.settings, indent=1, sort_keys=True)
    for other in run.folder.parents[2].glob(f"*/*/*/{ARGUMENTS}"):
        if other.read_text() == settings and other.parent != run.folder:
            shutil.rmtree(run.folder, ignore_errors=True)
            with atomic_write(run.folder) as folder:
                shutil.copytree(other.parent, folder, symlinks=True)
            return
    transfer(**check_recipe(run.arguments).build())
    with atomic_write(run.folder / ARGUMENTS) as file:
        file.write_text(settings)


def method_names(variant: str, arguments: dict[str, Any]) -> dict[str, str | None]:
    """Of a variant that is trained on several sources, a method for each: `VARIANT (SOURCE)`."""
    source = arguments.get("source")
    return {f"{variant} ({name})": name for name in source} if isinstance(source, dict) else {variant: None}


def _method(run: Run, source: str | None, sampling: Sampling) -> Method:
    adapter, model, encoder = str(run.folder / "adapter"), run.arguments["model"], run.arguments["image_encoder"]
    return ImagePromptMethod(model, adapter, encoder, sampling=sampling, source=source)


def _score_extra_methods(recipe: dict, final: Final, output: Path) -> None:
    """Scores of the methods that are not trained here on the task of the learning curves."""
    validator = check_recipe(merged(recipe, {"output": str(output)})).build(only=("evaluation",))["evaluation"]
    if validator is not None and final.extra_methods:
        folder = output / "validation"
        evaluate(
            validator.task, final.extra_methods, validator.metrics, folder, batch=validator.batch, seed=validator.seed
        )
