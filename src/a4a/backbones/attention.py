"""Attention contracts: where a denoiser's attention module takes image features, by the kind of attention.

Attention modules of diffusers differ in a handful of facts: which projection gives the query, which rows of the
sequence are the image's, which norms act on queries and keys, where the head count is kept, and which layer mixes the
heads. A contract states them once under a name; a `Site` names the contract of its module.

| contract | sequence | examples in diffusers |
|---|---|---|
| cross | image rows; text has its own keys | U-Nets, PixArt, Sana, HunyuanDiT, Wan |
| double | image rows; text rows have projections of their own | SD3, Qwen-Image, the double blocks of FLUX |
| single-first | one sequence, image rows first | Z-Image, ERNIE-Image, HunyuanImage, HiDream |
| single-last | one sequence, image rows last | the single blocks of FLUX and Chroma, CogView4 |
| packed | image rows last; attention and MLP share their input and output layers | the single blocks of FLUX.2 |

A family whose modules use other names registers `dataclasses.replace(CROSS, name=..., query=...)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from a4a.errors import InputError


class ImageRows(NamedTuple):
    """Which rows of a sequence are those of the image that is drawn; the denoiser's inputs tell (`Backbone.image_rows`).

    Tensors [batch] stand for numbers that differ between samples, or that only the device knows.
    """

    count: int | Tensor
    """Rows of the drawn image; a part of the sequence may have none of them."""
    before: int | Tensor = 0
    """Rows before them, where the image's are not last: of reference images, of a sample's own caption."""
    after: int | Tensor = 0
    """Rows after them: of reference images."""

    def part(self, rank: int, parts: int) -> "ImageRows":
        """These rows within one of several parts of the sequence, split as `Tensor.tensor_split` does; may be none.

        Under context parallelism each process has one part: of the image's rows, with those before and after them,
        and of the text's.
        """
        before, last = self.before, self.before + self.count
        length = last + self.after
        start, end = (i * (length // parts) + _smaller(i, length % parts) for i in (rank, rank + 1))
        before, last = (_smaller(start + _positive(row - start), end) for row in (before, last))
        return ImageRows(last - before, before - start, end - last)


def _positive(number: Any) -> Any:
    return number.clamp(min=0) if isinstance(number, Tensor) else max(number, 0)


def _smaller(a: Any, b: Any) -> Any:
    return a - _positive(a - b)


@dataclass(frozen=True)
class AttentionContract:
    """The facts about one kind of attention module; the names are attributes of the module.

    Modules are called and never read for their weights, so that LoRA layers and quantised layers count.
    """

    name: str
    image_rows: Literal["all", "first", "last"] = "all"
    """Where the image's rows are in the sequence that the query projection sees."""
    query: str = "to_q"
    """Projection that gives the query."""
    fused_query: str | None = "to_qkv"
    """Projection that replaces it after `fuse_qkv_projections`; the query is the first third of its columns."""
    query_norm: str = "norm_q"
    """Norm of the queries, over each head or over all of them; the module may have none."""
    key_norm: str = "norm_k"
    heads: str = "heads"
    """Attribute with the number of query heads."""
    output: str = "to_out"
    """What mixes the heads: a Linear, or a list that starts with one. A module without it returns the heads unmixed."""
    text: tuple[str, str] = ("to_k", "to_v")
    """Projections of the text to keys and values."""

    def head_count(self, attention: nn.Module) -> int:
        return getattr(attention, self.heads)

    def key_width(self, attention: nn.Module) -> int:
        """Key heads x head width, the width of the module's site; smaller than the query's where heads share keys."""
        return getattr(attention, self.text[0]).out_features

    def text_projections(self, attention: nn.Module) -> tuple[nn.Linear, nn.Linear]:
        """The module's own projections of text to keys and values, from which an adapter can be initialised.

        They may do more than that; `text_part` gives what does this alone.
        """
        return getattr(attention, self.text[0]), getattr(attention, self.text[1])

    def text_part(self, attention: nn.Module, layer: nn.Linear, kind: Literal["keys", "values"]) -> nn.Linear:
        """The projection to keys or to values within `layer`, which is one of `text_projections`, dequantised."""
        return layer

    def query_columns(self, attention: nn.Module, projection: str, projected: Tensor) -> Tensor:
        """The query within the output of `projection`, which is `query` or `fused_query`."""
        return projected.chunk(3, dim=-1)[0] if projection == self.fused_query else projected

    def drawn_rows(self, query: Tensor, image: ImageRows | None) -> slice | Tensor:
        """The drawn image's rows among those of a query [batch, rows, width].

        A slice, or a boolean mask [batch or 1, rows, 1] where tensors say which. All rows where nothing is said of a
        module that sees image rows alone; InputError where text and image share the sequence, or where the rows do not
        fit.
        """
        length = query.shape[1]
        if image is None and self.image_rows == "all":
            return slice(0, length)
        if image is None:
            raise InputError(
                f"{self.name} attention holds text and image in one sequence, and no family of models says which of "
                f"the {length} rows are the image's; write one with `image_rows` in a4a/backbones."
            )
        start = length - image.after - image.count if self.image_rows == "last" else image.before
        if isinstance(start, Tensor) or isinstance(image.count, Tensor):
            rows = torch.arange(length, device=query.device)
            first, count = (_per_sample(number, query.device) for number in (start, image.count))
            return ((rows >= first) & (rows < first + count)).unsqueeze(-1)
        if start < 0 or image.count < 0 or start + image.count > length:
            raise InputError(
                f"{self.name} attention runs on {length} rows, of which {image.count} from row {start} on should be "
                f"the image's; the family's `image_rows` does not fit this denoiser."
            )
        return slice(start, start + image.count)

    def query_heads(self, attention: nn.Module, query: Tensor) -> Tensor:
        """Queries [batch, rows, width] as they enter attention: normalised, [batch, heads, rows, head width]."""
        return _heads(query, query.shape[-1] // self.head_count(attention), getattr(attention, self.query_norm, None))

    def key_heads(self, attention: nn.Module, key: Tensor, query_width: int) -> Tensor:
        """Image keys [batch, tokens, width], normalised as the module's own: [batch, key heads, tokens, head width]."""
        return _heads(key, query_width // self.head_count(attention), getattr(attention, self.key_norm, None))

    def value_heads(self, attention: nn.Module, value: Tensor, query_width: int) -> Tensor:
        """Image values [batch, tokens, width] as [batch, key heads, tokens, head width]."""
        return _heads(value, query_width // self.head_count(attention), None)


def _per_sample(number: int | Tensor, device: torch.device) -> Tensor:
    return torch.as_tensor(number, device=device).reshape(-1, 1)


def _heads(t: Tensor, head_width: int, norm: nn.Module | None) -> Tensor:
    width = t.shape[-1]
    if norm is not None and _norm_width(norm) == width != head_width:  # over all heads, before they are split
        t, norm = norm(t), None
    t = t.unflatten(-1, (-1, head_width)).transpose(1, 2)
    return t if norm is None else norm(t)


def _norm_width(norm: nn.Module) -> int | None:
    """How many columns a norm takes; None for norms that take any number."""
    shape = getattr(norm, "normalized_shape", None) or getattr(norm, "dim", None)
    return shape[-1] if isinstance(shape, Sequence) else shape


@dataclass(frozen=True)
class PackedContract(AttentionContract):
    """Query, key, value and MLP input come out of one Linear; attention and MLP output enter one Linear."""

    def query_columns(self, attention: Any, projection: str, projected: Tensor) -> Tensor:
        return projected[..., : attention.inner_dim]

    def text_part(self, attention: Any, layer: nn.Linear, kind: Literal["keys", "values"]) -> nn.Linear:
        width = attention.inner_dim
        start = width if kind == "keys" else 2 * width
        part = nn.Linear(layer.in_features, width, bias=layer.bias is not None, device="meta")
        rows = {name: t[start : start + width] for name, t in layer.state_dict().items()}
        part.load_state_dict(rows, assign=True)
        return part.requires_grad_(False)

    def key_width(self, attention: Any) -> int:
        return attention.inner_dim


CROSS = AttentionContract("cross")
DOUBLE = AttentionContract("double", text=("add_k_proj", "add_v_proj"))
SINGLE_FIRST = AttentionContract("single-first", image_rows="first")
SINGLE_LAST = AttentionContract("single-last", image_rows="last")
PACKED = PackedContract(
    "packed", image_rows="last", query="to_qkv_mlp_proj", fused_query=None, text=("to_qkv_mlp_proj", "to_qkv_mlp_proj")
)

CONTRACTS: dict[str, AttentionContract] = {c.name: c for c in (CROSS, DOUBLE, SINGLE_FIRST, SINGLE_LAST, PACKED)}
"""Contracts by the name that a `Site` gives; a family may add its own."""


def contract_of(name: str) -> AttentionContract:
    """The contract of that name; InputError where there is none."""
    if name not in CONTRACTS:
        raise InputError(f"There is no attention contract {name!r}; expected one of {', '.join(sorted(CONTRACTS))}.")
    return CONTRACTS[name]
