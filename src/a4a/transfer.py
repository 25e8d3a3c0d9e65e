"""`a4a transfer`: from a source adapter, an upgraded model and data to an adapter for that model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from a4a.adapters import checkpoint
from a4a.adapters.a4a import A4A
from a4a.adapters.adapter import ImagePromptAdapter
from a4a.adapters.card import save_with_card
from a4a.adapters.encoders import CLIPImageEncoder, check_width
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import Backbone, backbone_for, load_pipeline
from a4a.data.encoded import encode
from a4a.data.pictures import Data, Pictures
from a4a.data.prepared import Prepared
from a4a.errors import InputError
from a4a.evaluation import Evaluation, logged
from a4a.files import replacing
from a4a.method.linears import Sharing
from a4a.method.mapping import Reach
from a4a.training.loop import TrainingConfig, train
from a4a.training.objective import Denoising, ObjectiveConfig


@dataclass
class Method:
    """What is trained."""

    kind: Literal["a4a", "ip_adapter"] = "a4a"
    """`a4a`: the source adapter, transferred. `ip_adapter`: IP-Adapter*, from scratch on the upgraded model."""
    keep_projection: bool = False
    """`ip_adapter` only: start from the source's image projection (and freeze nothing)."""
    tokens: int = 4
    """`ip_adapter` only: image tokens N."""
    d_scm: int | None = None
    """Width of the coupling space; by default the least common multiple of the base widths (the paper)."""
    rounds: int = 2
    """R, rounds of the upgraded space mapping."""
    inner: int | None = None
    """d_im, width of the mapping's attention; d_scm by default."""
    heads: int = 8
    """Heads of the mapping's attention."""
    residual: bool = True
    """Residual connections in the mapping; the paper's letter has none."""
    sharing: Sharing = "site"
    """Linear layers of projection and alignment per "site", or per distinct "width" (the paper's letter)."""
    warm_start: bool = True
    """Latents begin as a depth-matched mixture of the base features; at random in the paper."""
    text_start: bool = True
    """Alignment begins as the model's own text projections (needs sharing: site); at random in the paper."""
    reach: Reach = "all"
    """Base sites that an upgraded site sees: all (the paper), or the nearest in depth, as an ablation."""
    coupling: bool = True
    """False: map the condition tokens instead of the features that the source makes of them, as an ablation."""
    base_sites: int | None = None
    """Use so many of the source's sites, evenly over its depth; all by default."""

    def build(self, backbone: Backbone, source: IPAdapter | None, embed: int) -> ImagePromptAdapter:
        text = backbone.text_projections()
        if self.kind == "ip_adapter":
            adapter = IPAdapter.fresh(backbone.sites, text, embed, self.tokens)
            if self.keep_projection:
                _copy_projection(source, adapter)
            return adapter
        if source is None:
            raise InputError(
                "method.kind is a4a but no source adapter is given; set source to the adapter to transfer, or method.kind to ip_adapter."
            )
        if self.text_start and self.sharing != "site":
            raise InputError(
                f"method.text_start needs a layer per site but method.sharing is {self.sharing!r}; set method.sharing to site or method.text_start to false."
            )
        options: dict[str, Any] = {name: getattr(self, name) for name in _A4A_OPTIONS}
        return A4A.wrap(source, backbone.sites, text if self.text_start else None, **options)


_A4A_OPTIONS = ("d_scm", "rounds", "inner", "heads", "residual", "sharing", "warm_start", "reach", "coupling", "base_sites")


def _copy_projection(source: IPAdapter | None, adapter: IPAdapter) -> None:
    if source is None:
        raise InputError("method.keep_projection is set but no source adapter is given; set source.")
    mine, theirs = adapter.image_proj.proj.weight.shape, source.image_proj.proj.weight.shape
    if mine != theirs:
        raise InputError(
            f"method.keep_projection needs equal projections but the source's is {list(theirs)} and the new one {list(mine)}; set it to false."
        )
    adapter.image_proj.load_state_dict(source.image_proj.state_dict())


@dataclass
class Precision:
    """Number formats of what is frozen."""

    frozen: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the denoiser, VAE and encoders; what is trained stays float32."""


def transfer(
    model: Path,
    data: Data,
    image_encoder: Path,
    output: Path,
    source: Path | None = None,
    method: Method = Method(),
    objective: ObjectiveConfig = ObjectiveConfig(),
    training: TrainingConfig = TrainingConfig(),
    evaluation: Evaluation | None = None,
    precision: Precision = Precision(),
    cache: Path | None = None,
    resume: bool = False,
) -> ImagePromptAdapter:
    """Train an adapter for a model: transfer one made for another (A4A), or begin from scratch (IP-Adapter*).

    Args:
        model: The upgraded model: a diffusers pipeline folder or hub name.
        data: Training pictures: class_path PictureFolder with path and size, or a4a.data.Prepared with the path of what a4a prepare made.
        image_encoder: CLIP vision model that the adapter takes embeddings from: a folder or owner/repo/folder on the hub.
        output: Folder for the adapter (output/adapter), log.csv, sample pictures and checkpoints.
        source: The adapter to transfer: a published IP-Adapter file, folder or hub name.
        method: What is trained.
        objective: Loss and learning rates.
        training: Samples, batch, schedule, checkpoints.
        evaluation: Scores and pictures to log every training.evaluate_every samples.
        precision: Number formats.
        cache: Folder for encodings of the data; output/cache by default.
        resume: Go on with the run that output holds.
    """
    output = Path(output)
    adapter_source = checkpoint.read(source) if source is not None else None
    ready = data if isinstance(data, Prepared) else None
    if ready is not None:
        ready.check(model, image_encoder)
    elif not isinstance(data, Pictures):
        raise TypeError(f"Data are Pictures or Prepared, not {type(data).__name__}.")
    encoders = ready is None or evaluation is not None  # whether anything is left to encode
    encoder = CLIPImageEncoder.load(image_encoder) if encoders else None
    embed = encoder.embed if encoder is not None else ready.embed  # pyright: ignore[reportOptionalMemberAccess]
    if adapter_source is not None and (method.kind == "a4a" or method.keep_projection):
        check_width(embed, adapter_source.embed, str(source))
    pipe = load_pipeline(model, dtype=getattr(torch, precision.frozen), parts="all" if encoders else "denoiser")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipe.to(device)
    if encoder is not None:
        encoder.model.to(device)  # pyright: ignore[reportArgumentType]
    backbone = backbone_for(pipe)
    torch.manual_seed(training.seed)
    adapter = method.build(backbone, adapter_source, embed)
    adapter.name_image_encoder(str(image_encoder))
    table = encode(data, backbone, encoder, Path(cache) if cache else output / "cache") if isinstance(data, Pictures) else ready
    assert table is not None
    loss = Denoising(backbone, adapter, objective, ready.no_text if ready is not None else None)

    def evaluate(samples: int) -> dict[str, float]:
        assert evaluation is not None and encoder is not None
        loss.pause()
        result = evaluation(pipe, adapter, encoder)
        loss.go_on()
        target = output / "samples" / f"{samples:010d}.png"
        with replacing(target) as beside:
            result.picture.save(beside, format="PNG")
        return logged(result.scores)

    try:
        train(
            loss,
            table,
            training,
            output,
            resume=resume,
            evaluate=evaluate if evaluation is not None else None,
            description=output.name,
        )
    finally:
        loss.pause()
    adapter.eval()
    facts = {"samples": training.samples, "model": str(model), "source": str(source) if source else None, "image_encoder": str(image_encoder)}
    save_with_card(adapter, output / "adapter", facts)
    return adapter
