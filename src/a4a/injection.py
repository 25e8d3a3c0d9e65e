"""Eq. 13: image features enter a frozen denoiser, `Z = Attention(q, k, v) + scale Attention(q, k^, v^)`.

One mechanism serves all denoisers: while features are attached, each attention module adds the second term itself
(`injected_attention.py`). Processors, weights, names, hooks and LoRA layers stay what they are, so whatever changes
them before or after works as on the plain model.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from a4a.backbones.attention import contract_of
from a4a.errors import InputError
from a4a.features import Site, SiteFeatures
from a4a.image_terms import BatchedTerm, ImageTerm
from a4a.injected_attention import SITE, SiteContext, SiteState, check_free, enter, leave
from a4a.injected_denoiser import ForwardPass, PassState
from a4a.utils.hooks import reset_stateful_hooks

Scale = float | Tensor | Sequence[float]
"""A number for all sites, or one for each."""


def attach(
    model: nn.Module,
    sites: Sequence[Site],
    features: SiteFeatures,
    scale: Scale = 1.0,
    negative: SiteFeatures | None = None,
    perturbed: bool = False,
) -> "Injection":
    """Injects features into a denoiser, one row of features for each row of its batch.

    With `negative`, classifier-free guidance is expected as the model's family runs it (`Backbone.guidance`): the
    half of a batch of twice as many rows, or the one of two forward passes, that has no prompt gets `negative`.
    `perturbed` is perturbed-attention guidance, which runs all rows but the negative ones twice. Use the result as a
    context manager, or call its `detach`. Raises InputError where features and sites do not fit, or a site cannot be
    reached.
    """
    injection = Injection(model, sites)
    try:
        injection.set(features, scale, negative, perturbed)
    except Exception:
        injection.detach()
        raise
    return injection


def is_attached(model: nn.Module) -> bool:
    """Whether any attention module of the model takes features now, to check that nothing was left attached."""
    return any(SITE in m.__dict__ for m in model.modules())


class Injection:
    """The sites of one denoiser, ready to take features. Without features they compute what the plain model does."""

    def __init__(self, model: nn.Module, sites: Sequence[Site]):
        self.model, self.sites = model, tuple(sites)
        self.modules = [model.get_submodule(site.name) for site in sites]
        contracts = [contract_of(site.attention) for site in self.sites]
        self._all = list(model.modules())
        self._checkpointed: list[Any] = [m for m in self._all if hasattr(m, "gradient_checkpointing")]
        for site, module in zip(self.sites, self.modules, strict=True):
            check_free(site, module)
        self.forward = ForwardPass(model)
        self._terms: list[BatchedTerm] = []
        self._contexts = [
            SiteContext(site.name, contract, self.forward) for site, contract in zip(self.sites, contracts, strict=True)
        ]
        for module, context in zip(self.modules, self._contexts, strict=True):
            enter(module, context)
        self._wrap_checkpointing()

    def set(
        self,
        features: SiteFeatures,
        scale: Scale = 1.0,
        negative: SiteFeatures | None = None,
        perturbed: bool = False,
    ) -> None:
        """Replaces the features; arguments as of `attach`. A site of scale 0 does no work at all."""
        scales = torch.tensor(site_scales(scale, len(self.sites))).expand(features.batch, -1)
        self.set_terms([ImageTerm(features, scales, negative)], perturbed)

    def set_terms(self, terms: Sequence[ImageTerm], perturbed: bool = False) -> None:
        """Replaces all features by those of several image prompts at once: a sum of terms at every site.

        The terms have as many rows each, and negatives all or none. Raises InputError where they do not fit.
        """
        if len({(term.features.batch, term.negative is None) for term in terms}) != 1:
            raise InputError("Image terms differ in their number of rows, or some have negatives and others none.")
        for term in terms:
            term.features.check(self.sites, type(self.model).__name__)
        last = self.forward.guidance == "negative_last"
        self._terms = [BatchedTerm(term, last, perturbed) for term in terms]
        self.forward.regions = [term.region for term in self._terms if term.region is not None]
        rows = terms[0].features.batch * (2 if perturbed else 1)
        self._set_states([self._state(site, rows) for site in range(len(self.sites))])

    def multiply(self, factors: Sequence[Sequence[float]]) -> None:
        """For each term, a number for each row of prompts, by which its scale is multiplied from now on."""
        for term, numbers in zip(self._terms, factors, strict=True):
            term.multiply(numbers)

    def _state(self, site: int, rows: int) -> SiteState | None:
        """What a site adds; None where no term ever has a scale other than 0."""
        terms = tuple(term.at(site) for term in self._terms if term.works[site])
        return SiteState(terms, rows) if terms else None

    def clear(self) -> None:
        """Removes the features and leaves the sites in place: the model computes what the plain one does."""
        self._terms, self.forward.regions = [], []
        self._set_states([None] * len(self.sites))

    def detach(self) -> None:
        """Gives every module its own class and forward back."""
        for module, context in zip(self.modules, self._contexts, strict=True):
            if module.__dict__.get(SITE) is context:
                leave(module)
        self.forward.remove()
        reset_stateful_hooks(self._all)
        for module in self._checkpointed:
            function = getattr(module, "_gradient_checkpointing_func", None)
            if isinstance(function, _Checkpoint) and function.injection is self:
                module._gradient_checkpointing_func = function.function

    def __enter__(self) -> "Injection":
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _set_states(self, states: Sequence[SiteState | None]) -> None:
        self._wrap_checkpointing()
        reset_stateful_hooks(self._all)  # caches hold results of other features
        for context, state in zip(self._contexts, states, strict=True):
            context.exchanged = context.exchanged or context.used
            context.used, context.state = True, state

    def _wrap_checkpointing(self) -> None:
        """Makes gradient checkpointing recompute blocks with the features that their forward pass had."""
        reset_stateful_hooks(self._all)
        for module in self._checkpointed:
            function = getattr(module, "_gradient_checkpointing_func", None)
            if function is not None and not isinstance(function, _Checkpoint):
                module._gradient_checkpointing_func = _Checkpoint(self, function)

    def states(self) -> "_States":
        """The features and the forward pass that the sites have now."""
        return [context.state for context in self._contexts], self.forward.state

    @contextmanager
    def using_states(self, states: "_States") -> Iterator[None]:
        """Runs a `with` block with the features of an earlier forward pass."""
        before, now = [(context.state, context.restored) for context in self._contexts], self.forward.state
        site_states, self.forward.state = states
        for context, state in zip(self._contexts, site_states, strict=True):
            context.state, context.restored = state, True
        try:
            yield
        finally:
            self.forward.state = now
            for context, (state, restored) in zip(self._contexts, before, strict=True):
                context.state, context.restored = state, restored


_States = tuple[Sequence[SiteState | None], PassState]
"""Features of all sites, and the rows and the branch of guidance of one forward pass."""


class _Checkpoint:
    """A model's checkpoint function that recomputes with the features of the forward pass.

    Recomputation happens in the backward pass, when others may be attached: silently wrong gradients otherwise.
    """

    def __init__(self, injection: Injection, function: Callable):
        self.injection, self.function = injection, function

    def __call__(self, block: Callable, *args: Any, **kwargs: Any) -> Any:
        return self.function(partial(self._run, self.injection.states(), block), *args, **kwargs)

    def _run(self, states: _States, block: Callable, *args: Any, **kwargs: Any) -> Any:
        with self.injection.using_states(states):
            return block(*args, **kwargs)


def site_scales(scale: Scale, sites: int, name: str = "scale") -> list[float]:
    """One number per site; InputError, which calls the argument `name`, where it is neither that nor one for all."""
    expected = f"expected one number, or one for each of the {sites} sites"
    given: Any = scale.tolist() if isinstance(scale, Tensor) else scale
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Real | Iterable):
        raise InputError(f"{name} is {given!r}; {expected}.")
    scales = [given] * sites if isinstance(given, Real) else list(given)
    if len(scales) != sites:
        raise InputError(f"{name} has {len(scales)} numbers; {expected}.")
    for number in scales:
        if not isinstance(number, Real) or not math.isfinite(number):
            raise InputError(f"{name} has {number!r} in it; {expected}, all finite.")
    return [float(number) for number in scales]
