"""Eq. 13: features enter a frozen denoiser, `Z = Attention(q, k, v) + scale Attention(q, k^, v^)`, and leave it again.

One mechanism for all denoisers. An attention module's class becomes a subclass whose `forward` hands the stock forward a
thin stand-in for the module: the stand-in notes the query as it leaves `to_q` and adds the second attention to what
enters `to_out[0]`. Processors, weights, names, hooks and LoRA layers of the module stay what they were, so whatever
changes them later (another processor, a LoRA, offloading) keeps working.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from numbers import Real
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from a4a.errors import InputError
from a4a.features import Site, SiteFeatures

Scale = float | Tensor | Sequence[float]


def attach(
    model: nn.Module,
    sites: Sequence[Site],
    features: SiteFeatures,
    scale: Scale = 1.0,
    negative: SiteFeatures | None = None,
    perturbed: bool = False,
) -> "Injection":
    """Injects features into a denoiser, one row of features for each row of its batch.

    With `negative`, a batch of twice as many rows is classifier-free guidance: its first half sees `negative`. `perturbed`
    is perturbed-attention guidance, which runs all rows but the negative ones twice. Use the result as a context manager,
    or call its `detach`. Raises InputError where features and sites do not fit.
    """
    injection = Injection(model, sites)
    try:
        injection.set(features, scale, negative, perturbed)
    except Exception:
        injection.detach()
        raise
    return injection


class Injection:
    """The sites of one denoiser, ready to take features."""

    def __init__(self, model: nn.Module, sites: Sequence[Site]):
        self.model, self.sites = model, tuple(sites)
        self.modules = [model.get_submodule(site.name) for site in sites]
        for site, module in zip(sites, self.modules, strict=True):
            if isinstance(module, _Injected):
                raise InputError(f"Features are already attached at {site.name}; detach them before attaching others.")
        self._contexts = [_SiteContext(site.name) for site in self.sites]
        for module, context in zip(self.modules, self._contexts, strict=True):
            module.__dict__["_injection"] = context
            module.__class__ = _injected(type(module))

    @property
    def state(self) -> list["_SiteState | None"]:
        return [context.state for context in self._contexts]

    @state.setter
    def state(self, state: Sequence["_SiteState | None"]) -> None:
        for context, own in zip(self._contexts, state, strict=True):
            context.state = own  # pyright: ignore[reportAttributeAccessIssue]

    def set(
        self, features: SiteFeatures, scale: Scale = 1.0, negative: SiteFeatures | None = None, perturbed: bool = False
    ) -> None:
        """Replaces the features. `scale` is a number or one per site; a site of scale 0 does no work at all."""
        features.check(self.sites, type(self.model).__name__)
        single = isinstance(scale, Real) or (isinstance(scale, Tensor) and scale.ndim == 0)
        scales = [float(scale)] * len(self.sites) if single else [float(s) for s in scale]  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
        if len(scales) != len(self.sites):
            raise InputError(
                f"There are {len(scales)} scales for the {len(self.sites)} sites of {type(self.model).__name__}; give one number or one per site."
            )
        if negative is not None and negative.batch != features.batch:
            raise InputError(
                f"There are {negative.batch} rows of negative features for {features.batch} rows of features; give as many of both."
            )
        if perturbed:
            features = SiteFeatures.stack([features, features])
        rows = features.batch
        if negative is not None:
            features = SiteFeatures.stack([negative, features])
        triples = zip(features.keys, features.values, scales, strict=True)
        self.state = [_SiteState(k, v, s, rows) if s else None for k, v, s in triples]

    def clear(self) -> None:
        """Leaves the sites in place without features: the model is the plain one."""
        self.state = [None] * len(self.modules)

    def detach(self) -> None:
        """Gives every module its own class back."""
        for module in self.modules:
            if isinstance(module, _Injected):
                module.__class__ = type(module).__mro__[2]
                del module.__dict__["_injection"]

    def __enter__(self) -> "Injection":
        return self

    def __exit__(self, *_) -> None:
        self.detach()

    @contextmanager
    def using_state(self, state: list["_SiteState | None"]) -> Iterator[None]:
        """For a while, the features of another moment."""
        before, self.state = self.state, state
        try:
            yield
        finally:
            self.state = before

    def checkpoint(self, function: Callable, *args) -> Any:
        """Gradient checkpointing that recomputes a block with the features that its forward pass saw.

        The stock function would see whatever is attached when backward runs: silently wrong gradients as soon as a
        second forward pass comes in between. Give this one to `enable_gradient_checkpointing`.
        """
        state = self.state
        return checkpoint(
            function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), self.using_state(state))
        )


class _SiteState:
    """What one site adds. `rows` counts the features without their negatives, which come first where there are any."""

    __slots__ = ("key", "rows", "scale", "value")

    def __init__(self, key: Tensor, value: Tensor, scale: float, rows: int):
        self.key, self.value, self.scale, self.rows = key, value, scale, rows

    def for_batch(self, batch: int, context: "_SiteContext") -> tuple[Tensor, Tensor]:
        if batch == self.key.shape[0]:
            return self.key, self.value
        if batch == self.rows:  # no guidance at this step: the conditional rows alone
            return self.key[-self.rows :], self.value[-self.rows :]
        raise InputError(
            f"The denoiser runs on {batch} rows at {context.name} but features are attached for {self.rows}"
            f"{f', or {len(self.key)} with negatives' if len(self.key) > self.rows else ''}; give one reference for each prompt, "
            f"to a pipeline whose guidance has no rows but prompts and negatives."
        )


class _SiteContext:
    """What a module knows of the injection: nothing that differs between sites but tensors, so that compiled blocks share their code."""

    __slots__ = ("name", "state")

    def __init__(self, name: str):
        self.name, self.state = name, None


class _Injected:
    """Marks a module whose class was exchanged."""


@cache
def _injected(stock: type[nn.Module]) -> type:
    plain = stock.forward  # looked up here, since torch.compile cannot follow a look-up in the class

    def forward(self, *args, **kwargs):
        context = self.__dict__["_injection"]
        if context.state is None:
            return plain(self, *args, **kwargs)
        return plain(_AttentionProxy(self, context), *args, **kwargs)  # pyright: ignore[reportArgumentType]

    return type(stock.__name__, (_Injected, stock), {"forward": forward, "__module__": stock.__module__})


class _AttentionProxy:
    """An attention module as its processor sees it, but for `to_q` and `to_out`."""

    def __init__(self, attention: Attention, context: _SiteContext):
        self._attention, self._context = attention, context

    @property
    def to_out(self) -> tuple[Callable, ...]:
        # made when asked for: kept, its bound method would be a cycle that holds the query until Python's collector comes by
        return (self._out, *self._attention.to_out[1:])  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]

    def __getattr__(self, name: str):
        return getattr(self._attention, name)

    def to_q(self, hidden: Tensor, *args) -> Tensor:
        self._query = self._attention.to_q(hidden, *args)
        return self._query

    def _out(self, hidden: Tensor, *args) -> Tensor:
        attention = self._attention
        state: _SiteState = self._context.state  # pyright: ignore[reportAssignmentType]
        key, value = state.for_batch(self._query.shape[0], self._context)

        def heads(t: Tensor) -> Tensor:
            return t.to(hidden).unflatten(-1, (attention.heads, -1)).transpose(1, 2)

        query, key, value = heads(self._query), heads(key), heads(value)
        if attention.norm_q is not None:
            query = attention.norm_q(query)
        if attention.norm_k is not None:
            key = attention.norm_k(key)
        image = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        return attention.to_out[0](hidden + state.scale * image, *args)  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]


def is_attached(model: nn.Module) -> bool:
    return any(isinstance(m, _Injected) for m in model.modules())
