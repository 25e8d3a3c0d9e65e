"""Write docs/support.md, which models and adapters work together: `python benchmarks/support.py`.

Everything in it is read from the code: models on the meta device, so nothing is downloaded; refusals from where they are
raised; times from benchmarks/results/injection_overhead.json. A test fails where the file is not up to date.
"""

import inspect
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import diffusers
import torch
from diffusers.models import transformers, unets

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.meta import load_meta_adapter
from a4a.adapters.projections import projection_families
from a4a.adapters.projections.base import UNSUPPORTED as UNSUPPORTED_ADAPTERS
from a4a.adapters.published import SOURCES
from a4a.backbones import Backbone, families
from a4a.backbones.meta import load_meta_model, published_models
from a4a.backbones.unsupported import UNSUPPORTED, why_unsupported
from a4a.encoders.published import IMAGE_ENCODERS
from a4a.pipeline.guidance import UNSUPPORTED as UNSUPPORTED_PIPELINES
from a4a.transfer.config import A4AConfig, IPAdapterConfig
from a4a.utils.modules import parameter_count

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "support.md"
TIMES = ROOT / "benchmarks" / "results" / "injection_overhead.json"
SOURCE_FILES = {"base": "models/ip-adapter_sd15", "plus": "models/ip-adapter-plus_sd15"}
"""Of h94/IP-Adapter, by family: the adapters whose transfer is counted."""
ENCODER = "h94/IP-Adapter/models/image_encoder"

TESTS = {
    "Attaching, switching off and detaching leave the plain model, bit for bit": (
        "tests/contracts/test_attach.py",
        "test_without_features_at_scale_zero_cleared_and_detached_the_model_is_the_plain_one",
    ),
    "Features reach the picture at every site": (
        "tests/contracts/test_backbones.py",
        "test_features_at_any_one_site_reach_the_prediction",
    ),
    "Query, image rows and heads are the model's own: an attention written out in float64 agrees": (
        "tests/contracts/test_injection.py",
        "test_query_rows_and_heads_at_every_site_are_the_models_own",
    ),
    "Gradients reach every key and value, and are the same under gradient checkpointing": (
        "tests/contracts/test_attach.py",
        "test_gradients_reach_every_key_and_value_under_gradient_checkpointing_too",
    ),
    "Guidance leaves the unconditional rows alone": (
        "tests/contracts/test_injection.py",
        "test_guidance_gives_the_reference_to_the_rows_of_the_prompt_alone",
    ),
    "References in a batch never mix": (
        "tests/contracts/test_attach.py",
        "test_references_in_a_batch_are_never_mixed",
    ),
    "Several image prompts at once, with soft masks": (
        "tests/contracts/test_terms.py",
        "test_two_terms_whose_masks_fill_the_image_are_one_without_a_mask",
    ),
    "Scales that change over the steps": (
        "tests/contracts/test_terms.py",
        "test_a_factor_multiplies_the_scale_in_place_and_zero_is_the_plain_model",
    ),
    "An adapter can be trained, and the model stays frozen": (
        "tests/contracts/test_backbones.py",
        "test_an_adapter_is_trained_and_the_model_stays_frozen",
    ),
    "Adapters are saved and loaded": (
        "tests/contracts/test_adapters.py",
        "test_a_saved_adapter_loads_with_the_same_features",
    ),
    "Pipelines are saved and loaded with their adapter": (
        "tests/pipeline/test_pipeline.py",
        "test_a_saved_pipeline_generates_the_same_after_loading",
    ),
    "`torch.compile` makes one graph, which new features do not recompile": (
        "tests/contracts/test_attach.py",
        "test_a_compiled_denoiser_is_one_graph_that_new_features_do_not_recompile",
    ),
    "A LoRA works, loaded before or after": (
        "tests/contracts/test_attach.py",
        "test_a_lora_takes_effect_added_while_attached_or_before",
    ),
    "bfloat16": ("tests/contracts/test_attach.py", "test_half_precision_runs_and_stays_close"),
    "Adapters start from text projections in 8 and 4 bits": (
        "tests/contracts/test_injection.py",
        "test_adapters_start_from_quantised_text_projections",
    ),
}
"""What the contract tests hold every family to: file and function."""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def millions(model: torch.nn.Module) -> str:
    return f"{parameter_count(model) / 1e6:,.0f}M"


# --- models ----------------------------------------------------------------------------------------------------------


def models_table(backbones: Mapping[str, Backbone]) -> str:
    rows = []
    for name, backbone in backbones.items():
        sites = Counter((s.width, s.attention) for s in backbone.sites)
        places = ", ".join(f"{count} x {width} {kind}" for (width, kind), count in sites.items())
        denoiser = backbone.denoiser
        rows.append([name, type(denoiser).__name__, millions(denoiser), places, backbone.guidance.replace("_", " ")])
    return table(["model", "denoiser", "parameters", "sites x width, attention", "guidance"], rows)


# --- adapters --------------------------------------------------------------------------------------------------------


def adapters_table(backbones: Mapping[str, Backbone]) -> str:
    encoder, kinds = IMAGE_ENCODERS[ENCODER], list(projection_families().items())
    widths = {"pooled": encoder.image_embed_dim, "tokens": encoder.hidden_size}
    sources = {family: load_meta_adapter(f"h94/IP-Adapter/{file}.safetensors") for family, file in SOURCE_FILES.items()}
    rows = []
    for name, backbone in backbones.items():
        with torch.device("meta"):
            trained = {
                family: IPAdapterConfig(family=family, tokens=tokens_of(sources, family)).build(
                    backbone, None, widths[kind.encoder_output]
                )
                for family, kind in kinds
            }
            transferred = {
                family: A4AConfig().build(backbone, source, source.image_embed_dim)
                for family, source in sources.items()
                if source is not None
            }
        own = [
            millions(adapter) + (", published" if has_file(family, adapter) else "")
            for family, adapter in trained.items()
        ]
        rows.append([name, *own, *map(millions, transferred.values())])
    head = [*(f"IP-Adapter {family}" for family, _ in kinds), *(f"A4A of {family}" for family in sources)]
    return table(["model", *head], rows)


def tokens_of(sources: Mapping[str, ImagePromptAdapter | None], family: str) -> int:
    source = sources.get(family)
    return source.tokens if source is not None else 4


def has_file(family: str, adapter: ImagePromptAdapter) -> bool:
    """Whether an adapter of the family is published for the same sites and text states."""
    text_width, widths = adapter.image_projection().text_width, [s.width for s in adapter.sites]
    return any(
        published.widths == widths
        and (published.projection["family"], published.projection["text_width"]) == (family, text_width)
        for published in SOURCES.values()
    )


# --- times -----------------------------------------------------------------------------------------------------------


def times_table(names: Iterable[str]) -> str:
    results = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    rows = []
    for name in names:
        for entry in results.get(name, {"blocks": []})["blocks"]:
            shape = f"{entry['rows']:,} x {entry['width']}"
            ratios = [ratio(entry.get(key)) for key in ("over plain", "over diffusers' own")]
            rows.append([name, f"{entry['block']}, {entry['attention']}", shape, f"{entry['seconds']:.3g} s", *ratios])
    head = ["model", "block, attention", "rows x width", "plain", "over plain", "over diffusers' own IP-Adapter"]
    return table(head, rows)


def ratio(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['median']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


# --- what is tested, what is refused ---------------------------------------------------------------------------------


def tests_list() -> str:
    lines = []
    for claim, (file, function) in TESTS.items():
        if not re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.MULTILINE):
            raise SystemExit(f"{file} has no {function}; say in benchmarks/support.py which test shows: {claim}.")
        lines.append(f"- {claim} (`{file}`, `{function}`)")
    return "\n".join(lines)


def denoisers() -> list[str]:
    """Class names of all denoisers that diffusers has."""
    found = [kind for home in (transformers, unets) for kind in vars(home).values() if inspect.isclass(kind)]
    return sorted({kind.__name__ for kind in found if issubclass(kind, diffusers.ModelMixin)})


def refused_denoisers() -> str:
    by_reason: dict[str, list[str]] = {reason: [] for reason in UNSUPPORTED.values()}
    for name in denoisers():
        if name not in families():
            by_reason.setdefault(why_unsupported(name), []).append(name)
    return "\n".join(f"- {reason}: {', '.join(names)}" for reason, names in by_reason.items() if names)


def refused_adapters() -> str:
    return "\n".join(f"- {name}: {family.reason}" for name, family in UNSUPPORTED_ADAPTERS.items())


def refused_pipelines() -> str:
    return "\n".join(f"- {name}: {reason}" for name, reason in UNSUPPORTED_PIPELINES.items())


# --- the document ----------------------------------------------------------------------------------------------------


def document(backbones: Mapping[str, Backbone]) -> str:
    """The text of docs/support.md, from the published models on the meta device."""
    backbones = dict(sorted(backbones.items()))
    return f"""# Models and adapters

Made by `python benchmarks/support.py`. Any diffusers pipeline with one of these denoisers works, so img2img, inpainting,
ControlNet and fine-tuned models, too; the models here are those that `a4a plan` and `a4a inspect` know without a download.

## Models

{models_table(backbones)}

A site is an attention module that takes image features; its width is that of its keys. Attention is *cross* (text has
its own keys), *double* (text and image rows have projections of their own), *single* (one sequence) or *packed* (one
sequence, in layers that attention and MLP share). Guidance is one batch with the negative prompts first or last, or two
separate forward passes.

## Adapters

Trainable parameters of an adapter for each model. *Published*: h94/IP-Adapter has a file that works as it is.
IP-Adapter columns are adapters trained for the model itself; A4A is the transfer of SD1.5's adapter of that family to the
model, its source included.

{adapters_table(backbones)}

Published families that are refused, each in one sentence:

{refused_adapters()}

## Time

What an image prompt of four tokens adds to one block at its real width, with the sequence of a 1024-pixel image: the median
ratio of times taken in turn, with its 95 % interval. Made by `python benchmarks/injection_overhead.py`.

{times_table(backbones)}

## What is tested

On a tiny pipeline of every family, with real diffusers classes:

{tests_list()}

What offloading, hooks, caches, quantised layers and other processors do, in any order, is tested on three denoisers
(`tests/test_injection_matrix.py`).

## What is refused

Denoisers of diffusers {diffusers.__version__} that are refused, by the reason that the error gives:

{refused_denoisers()}

Pipelines whose batches have other rows than prompts and negatives:

{refused_pipelines()}
"""


def main() -> None:
    backbones = {name: load_meta_model(name).backbone for name in published_models()}
    DOCUMENT.write_text(document(backbones))
    print(f"Wrote {DOCUMENT.relative_to(ROOT)}: {len(backbones)} models.")


if __name__ == "__main__":
    main()
