"""`a4a experiment`: variants of one transfer, several seeds of each, and the claims that their scores shall decide."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from a4a.errors import InputError
from a4a.evaluation.evaluate import evaluate
from a4a.evaluation.generation import Sampling
from a4a.evaluation.methods import ImagePromptMethod, Method
from a4a.evaluation.metrics.base import Metric
from a4a.evaluation.tasks.base import Task
from a4a.evaluation.validation import Validator
from a4a.experiments.claims import Claim
from a4a.training import distributed
from a4a.transfer.recipe import checked, flat, merged
from a4a.transfer.run import transfer
from a4a.utils.files import atomic_write, slug

ARGUMENTS = "arguments.json"
"""Of `a4a transfer`, in the folder of a run that is finished."""


@dataclass
class Final:
    """What the finished adapters are scored on."""

    task: Task
    metrics: list[Metric]
    sampling: Sampling = field(default_factory=Sampling)
    batch: int = 8
    extra_methods: dict[str, Method] = field(default_factory=dict)
    """Methods that are not trained here: the floor, the ceiling, the adapter on its own base."""


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
    only: list[str] | None = None,
) -> None:
    """Train every variant of a transfer with every seed, and score what comes out; what is finished is not run again.

    Args:
        title: Of the section in the report.
        recipe: The arguments of `a4a transfer` that all variants share.
        variants: By name, what each does otherwise.
        output: Folder for the runs, OUTPUT/VARIANT/seedN, the final scores, OUTPUT/final, and what the others
            have on the recipe's evaluation, OUTPUT/validation.
        final: What the finished adapters are scored on.
        seeds: Each trains every variant once.
        scores: Columns of the logs that the report draws.
        says: Sentences for the report: what this shows in the paper.
        claims: What the report decides.
        only: Train these variants alone; others are scored where they are finished.
    """
    output = Path(output)
    if not variants or not seeds:
        raise InputError(f"The experiment {title!r} has no variants or no seeds; give at least one of each.")
    for name in {*(only or []), *(n for c in claims for n in (c.a, c.b))} - {
        *variants,
        *(final.extra_methods if final else {}),
    }:
        raise InputError(f"The experiment {title!r} has no variant {name!r}; its variants are {', '.join(variants)}.")
    for claim in claims:
        if claim.kind in ("always_above", "reaches") and claim.score not in scores:
            raise InputError(
                f"The claim {claim.description!r} is about the curve of {claim.score}; the curves (scores) are of {', '.join(scores)}: add it there."
            )
    finished: dict[str, Method] = {}
    for name, change in variants.items():
        for seed in seeds:
            run = output / slug(name) / f"seed{seed}"
            arguments = merged(merged(recipe, change), {"output": str(run), "training": {"seed": seed}, "resume": True})
            if only and name not in only and not (run / ARGUMENTS).exists():
                continue
            _train(arguments, run, f"{title}: {name}, seed {seed}")
            sampling = final.sampling if final else Sampling()
            finished[f"{name}, seed {seed}"] = ImagePromptMethod(
                arguments["model"], str(run / "adapter"), arguments["image_encoder"], sampling=sampling
            )
    if not distributed.state().is_main_process:
        return
    manifest = {
        "title": title,
        "description": description,
        "scores": scores,
        "seeds": seeds,
        "variants": {name: slug(name) for name in variants},
        "claims": [asdict(c) for c in claims],
        "samples": recipe.get("training", {}).get("samples"),
    }
    with atomic_write(output / "experiment.json") as beside:
        beside.write_text(json.dumps(manifest, indent=1))
    if final is not None:
        watched = _evaluation(merged(recipe, {"output": str(output)}))
        if watched is not None and final.extra_methods:
            evaluate(
                watched.task,
                final.extra_methods,
                watched.metrics,
                output / "validation",
                batch=watched.batch,
                seed=watched.seed,
            )
        evaluate(final.task, {**final.extra_methods, **finished}, final.metrics, output / "final", batch=final.batch)


def _train(arguments: dict[str, Any], run: Path, title: str) -> None:
    """Trains what is not finished, or copies what another experiment beside this one has trained with the very same arguments."""
    wanted = {name: value for name, value in arguments.items() if name != "output"}
    said = json.dumps(wanted, indent=1, sort_keys=True)
    parser, chosen = checked(arguments)
    if (run / ARGUMENTS).exists():
        found, wanted = flat(json.loads((run / ARGUMENTS).read_text())), flat(wanted)
        if name := next((n for n in sorted({*found, *wanted}) if found.get(n) != wanted.get(n)), None):
            raise InputError(
                f"{run} was trained with {name} {found.get(name)} and the recipe now says {wanted.get(name)}; remove that folder or choose another output."
            )
        return
    print(title)
    for other in run.parents[2].glob(f"*/*/*/{ARGUMENTS}"):
        if other.read_text() == said and other.parent != run:
            shutil.rmtree(run, ignore_errors=True)
            with atomic_write(run) as beside:
                shutil.copytree(other.parent, beside)
            return
    transfer(**vars(parser.instantiate_classes(chosen)))
    with atomic_write(run / ARGUMENTS) as beside:
        beside.write_text(said)


def _evaluation(arguments: dict[str, Any]) -> Validator | None:
    parser, chosen = checked(arguments)
    return vars(parser.instantiate_classes(chosen))["evaluation"]
