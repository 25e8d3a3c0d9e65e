"""An attention module while features are attached, eq. 13: `Z = Attention(q, k, v) + scale Attention(q, k^, v^)`.

The module runs its own forward with a proxy of itself. The proxy remembers the query q as it leaves its projection, and
adds `scale Attention(q, k^, v^)` to `Attention(q, k, v)` as that enters the output projection.

The proxy comes in through the class: `module.__class__` becomes a subclass with another `forward`. Compiled blocks then
share one graph, which a function on every instance would prevent. Hooks that replaced `module.forward` before keep the
class's old method beneath them; there it is exchanged, too (`utils/hooks.py`).
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a4a.backbones.attention import AttentionContract
from a4a.errors import InputError
from a4a.features import Site
from a4a.image_terms import SiteTerm
from a4a.injected_denoiser import ForwardPass
from a4a.utils.hooks import drop_needless_forward, exchange_own_forward, own_forward_is_hidden

SITE = "_injection"
"""Attribute of an attached module: its context."""


class SiteState:
    """The image terms of one site. `rows` counts prompts, `both` also negatives."""

    __slots__ = ("both", "rows", "terms")

    def __init__(self, terms: tuple[SiteTerm, ...], rows: int):
        self.terms, self.rows, self.both = terms, rows, terms[0].key.shape[0]

    def is_off(self) -> bool:
        """Whether no term acts at this step."""
        return all(term.is_off() for term in self.terms)

    def for_batch(self, batch: int, name: str, forward: ForwardPass) -> tuple[SiteTerm, ...]:
        """The terms for a batch of that many rows; InputError where neither count of rows fits."""
        separate = forward.guidance == "separate" and self.both > self.rows
        if batch == self.both and not separate:
            return self.terms
        if batch == self.rows:  # no guidance at this step, or one of two forward passes
            first = forward.guidance == "negative_last" or (separate and forward.unconditional)
            rows = slice(0, batch) if first else slice(self.both - batch, self.both)
            return tuple(term.part(rows) for term in self.terms)
        with_negatives = f", or {self.both} with negatives" if self.both > self.rows and not separate else ""
        raise InputError(
            f"The denoiser runs on {batch} rows at {name} but features are attached for {self.rows}{with_negatives}; "
            f"give one reference for each prompt, to a pipeline whose guidance has no rows but prompts and negatives."
        )


class SiteContext:
    """What a module knows of the injection. Sites differ in tensors alone, so that compiled blocks share one graph.

    Attributes:
        state: the features to add; None adds none.
        used: features were set once.
        exchanged: features were set again after that, so a recomputed forward pass may have had others.
        restored: gradient checkpointing has put back the features of the forward pass that it recomputes.
        forward: the denoiser's forward pass, shared by all sites.
    """

    __slots__ = ("contract", "exchanged", "forward", "name", "restored", "state", "used")

    def __init__(self, name: str, contract: AttentionContract, forward: ForwardPass):
        self.name, self.contract, self.forward = name, contract, forward
        self.state: SiteState | None = None
        self.used = self.exchanged = self.restored = False

    def check_recomputation(self) -> None:
        """Refuses to recompute a forward pass whose features may have been others."""
        if (self.exchanged or self.forward.changed) and not self.restored and torch._C._current_graph_task_id() != -1:
            raise InputError(
                f"Gradient checkpointing recomputes {self.name} after its features or image rows were exchanged, and "
                f"does not know the old ones; enable gradient checkpointing before the features of the forward pass are set."
            )


class _AttentionProxy:
    """An attention module as its processor sees it: eq. 13 happens between query projection and output projection."""

    def __init__(self, attention: nn.Module, context: SiteContext, state: SiteState):
        self._attention, self._context, self._state = attention, context, state
        self._query: Tensor | None = None
        self._added = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)

    def project(self, name: str, projected: Tensor) -> Tensor:
        """Remembers the query, which is a part of the output of the projection `name`."""
        self._query = self._context.contract.query_columns(self._attention, name, projected)
        return projected

    def add_image(self, attended: Tensor) -> Tensor:
        """Eq. 13: `attended`, Attention(q, k, v) with heads joined, plus scale mask Attention(q, k^, v^) of each term."""
        attention, context, contract = self._attention, self._context, self._context.contract
        query, self._query = self._query, None
        if query is None:
            raise self._unreachable(f"asks for {contract.output} without having called {contract.query}")
        drawn = contract.drawn_rows(query, context.forward.rows)
        terms = self._state.for_batch(query.shape[0], context.name, context.forward)
        if isinstance(drawn, slice):
            query = query[:, drawn]
        width = query.shape[-1]
        q = contract.query_heads(attention, query.to(attended))
        for term in terms:
            if term.is_off():
                continue
            k = contract.key_heads(attention, term.key.to(attended), width)
            v = contract.value_heads(attention, term.value.to(attended), width)
            image = F.scaled_dot_product_attention(
                q, k, v, attn_mask=term.bias_for(q), enable_gqa=q.shape[1] != k.shape[1]
            )
            image = term.masked(image.transpose(1, 2).flatten(-2), drawn, context.name)
            # in one pass over memory, which is what the sum costs
            attended = torch.addcmul(attended, term.scale.to(image), _padded(image, attended, drawn))
        self._added = True
        return attended

    def finished(self, result: Any) -> Any:
        """The module's result. A module without an output projection gets the image's part here."""
        if getattr(self._attention, self._context.contract.output, None) is None:
            return self.add_image(result)
        if not self._added:
            raise self._unreachable(f"never calls {self._context.contract.output}")
        return result

    def _unreachable(self, what: str) -> InputError:
        processor = type(getattr(self._attention, "processor", self._attention)).__name__
        return InputError(
            f"Image features cannot enter at {self._context.name}: its processor {processor} {what}; "
            f"set the model's default attention processor."
        )


@cache
def _proxy_class(contract: AttentionContract) -> type[_AttentionProxy]:
    """The proxy whose query projections and output projection have the names that the contract gives."""
    queries = [name for name in (contract.query, contract.fused_query) if name is not None]
    members = {name: _query_tap(name) for name in queries}
    return type("_AttentionProxy", (_AttentionProxy,), {**members, contract.output: property(_output_taps)})


def _query_tap(name: str) -> property:
    def tap(proxy: _AttentionProxy) -> _QueryTap:
        return _QueryTap(getattr(proxy._attention, name), proxy, name)

    return property(tap)


def _output_taps(proxy: _AttentionProxy) -> Any:
    # made on each access: if the proxy kept them, a reference cycle would keep the query in memory until Python's
    # garbage collector runs
    output = getattr(proxy._attention, proxy._context.contract.output)
    if isinstance(output, nn.ModuleList):
        return (_OutputTap(output[0], proxy), *output[1:])
    return None if output is None else _OutputTap(output, proxy)


class _Tap:
    """Stands in for a layer of an attention module: the same attributes, another call."""

    def __init__(self, layer: nn.Module, proxy: _AttentionProxy, name: str = ""):
        self._layer, self._proxy, self._name = layer, proxy, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class _QueryTap(_Tap):
    def __call__(self, hidden: Tensor, *args: Any) -> Tensor:
        return self._proxy.project(self._name, self._layer(hidden, *args))


class _OutputTap(_Tap):
    def __call__(self, attended: Tensor, *args: Any) -> Tensor:
        return self._layer(self._proxy.add_image(attended), *args)


def _padded(image: Tensor, attended: Tensor, rows: slice | Tensor) -> Tensor:
    """Zeros around the image's rows, and after its columns, up to the shape of `attended`."""
    if isinstance(rows, Tensor):
        image, before = torch.where(rows, image, 0), 0
    else:
        before = rows.start
    if image.shape == attended.shape:
        return image
    after = attended.shape[1] - before - image.shape[1]
    return F.pad(image, (0, attended.shape[2] - image.shape[2], before, after))


class _Injected:
    """Marks the classes that attached modules have."""


@cache
def _injected(stock: type[nn.Module], contract: AttentionContract) -> type[nn.Module]:
    """The subclass that modules of class `stock` get while attached."""
    # looked up here, since torch.compile cannot follow a look-up in the class
    plain, proxy_class = stock.forward, _proxy_class(contract)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        context: SiteContext | None = self.__dict__.get(SITE)
        if context is None:  # detached, and called by a wrapper from before
            return plain(self, *args, **kwargs)
        if not torch.compiler.is_compiling():
            context.check_recomputation()
        if context.state is None or context.state.is_off():
            return plain(self, *args, **kwargs)
        proxy = proxy_class(self, context, context.state)
        return proxy.finished(plain(proxy, *args, **kwargs))  # pyright: ignore[reportArgumentType]

    return type(stock.__name__, (_Injected, stock), {"forward": forward, "__module__": stock.__module__})


def check_free(site: Site, module: nn.Module) -> None:
    """InputError where a site has features already, or where features cannot be attached to its module."""
    if SITE in module.__dict__:
        raise InputError(f"Features are already attached at {site.name}; detach them before attaching others.")
    if own_forward_is_hidden(module):
        raise InputError(
            f"The forward of {site.name} was replaced by {module.forward!r}, behind which features cannot be attached; "
            f"attach them first, or take it off."
        )


def enter(module: nn.Module, context: SiteContext) -> None:
    """Gives a module the class, and hooks before it the forward, that add image attention."""
    stock = type(module)
    module.__class__ = _injected(stock, context.contract)
    exchange_own_forward(module, stock.forward, module.__class__.forward)
    module.__dict__[SITE] = context


def leave(module: nn.Module) -> None:
    """Gives a module its own class back, and hooks, even those set while attached, its own forward."""
    injected = type(module)
    module.__class__ = stock = injected.__mro__[2]  # after the class itself and the marker
    exchange_own_forward(module, injected.forward, stock.forward)
    drop_needless_forward(module)
    del module.__dict__[SITE]
