"""The denoiser's current forward pass: which rows are the image's, and which branch of guidance runs.

Both are read from what the denoiser is called with, before it runs, and hold for all sites.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed import get_rank, get_world_size

from a4a.backbones.attention import ImageRows
from a4a.backbones.base import Backbone, Guidance, find_family
from a4a.errors import InputError
from a4a.image_terms import RegionMask

BRANCHES = {"cond": False, "pred_cond": False, "uncond": True, "pred_uncond": True}
"""Names that pipelines give their forward passes (`cache_context`), and whether it is the unconditional one."""


PassState = tuple[ImageRows | None, bool]
"""`rows` and `unconditional` of a forward pass."""


class ForwardPass:
    """What the sites know of the denoiser's forward pass. One for each denoiser that features are attached to.

    Where guidance runs as two forward passes, the pipeline names them (`cache_context`), or its guider does (`follow`),
    or else the second one on the same latents is the unconditional one.

    Attributes:
        rows: of the drawn image; None for all.
        unconditional: whether this is the unconditional one of two forward passes.
        changed: the rows of two forward passes differed, so a recomputed one may have had others.
        regions: masks, which are fitted to the image's grid at the first forward pass after they were set.
    """

    def __init__(self, model: nn.Module):
        family = find_family(model)
        self.guidance: Guidance = "negative_first" if family is None else family.guidance
        self.rows: ImageRows | None = None
        self.unconditional = self.changed = False
        _check_parallelism(model)
        self._family: Any = family
        self._tells_rows = family is not None and family.image_rows.__func__ is not Backbone.image_rows.__func__
        self._names = tuple(inspect.signature(type(model).forward).parameters)[1:]
        self._named_branch: bool | None = None
        self._latents: Any = None
        self._model: Any = model
        self._handle = self._guider = None
        self._regions: list[RegionMask] = []
        self._unfitted = False
        if self._tells_rows or self.guidance == "separate":
            self._watch()
        if self.guidance == "separate" and hasattr(model, "cache_context"):
            self._cache_context: Any = model.cache_context
            self._model.cache_context = self._name_branch

    @property
    def state(self) -> PassState:
        """What a recomputation of this forward pass needs."""
        return self.rows, self.unconditional

    @state.setter
    def state(self, state: PassState) -> None:
        self.rows, self.unconditional = state

    def follow(self, guider: Any) -> None:
        """From now on guidance is that of a diffusers guider: each branch is a forward pass, and the guider says which.

        Call it before features are set.
        """
        self.guidance, self._guider = "separate", guider
        self._watch()

    @property
    def regions(self) -> list[RegionMask]:
        return self._regions

    @regions.setter
    def regions(self, regions: list[RegionMask]) -> None:
        self._regions, self._unfitted = regions, bool(regions)
        if regions:
            self._watch()

    def _watch(self) -> None:
        if self._handle is None:
            self._handle = self._model.register_forward_pre_hook(self._before, with_kwargs=True)

    def remove(self) -> None:
        """Takes the hooks off the denoiser."""
        if self._handle is not None:
            self._handle.remove()
        if self._model.__dict__.get("cache_context") == self._name_branch:
            del self._model.cache_context
        self._latents = None

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook of the denoiser."""
        inputs = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if self._unfitted:
            self._fit_regions(inputs)
        if self._tells_rows:
            self._set_rows(_rows_of_this_process(model, self._family.image_rows(model, inputs)))
        if self._guider is not None:
            self.unconditional = self._guider.is_unconditional
        elif self.guidance == "separate":
            latents = inputs[self._names[0]]
            again = latents is self._latents
            self._latents = latents
            self.unconditional = again if self._named_branch is None else self._named_branch

    def _fit_regions(self, inputs: Mapping[str, Any]) -> None:
        if self._family is None:
            raise InputError(
                f"A mask needs to know how {type(self._model).__name__} lays out its image, and no family of models "
                f"serves it; leave the mask out."
            )
        if getattr(self._model, "_parallel_config", None) is not None:
            raise InputError(
                f"The {type(self._model).__name__} is split over several processes, each with a part of the image, and "
                f"masks are for the whole; leave the mask out, or draw on one process."
            )
        in_order = {name: inputs[name] for name in self._names if name in inputs}
        grid = self._family.token_grid(self._model, in_order)
        for region in self._regions:
            region.fit(grid)
        self._unfitted = False

    def _set_rows(self, rows: ImageRows | None) -> None:
        if self.rows is not None and not _same(rows, self.rows):
            self.changed = True
        self.rows = rows

    @contextmanager
    def _name_branch(self, name: str, **kwargs: Any) -> Iterator[None]:
        """Stands in for the denoiser's `cache_context`."""
        if name not in BRANCHES:
            raise InputError(
                f"The pipeline runs the denoiser for {name!r}, which is neither prompts nor negatives, so it is not "
                f"known what an image prompt should do there; use classifier-free guidance alone."
            )
        self._named_branch = BRANCHES[name]
        try:
            with self._cache_context(name, **kwargs):
                yield
        finally:
            self._named_branch = None


def _same(rows: ImageRows | None, others: ImageRows) -> bool:
    if rows is None or any(isinstance(number, Tensor) for number in (*rows, *others)):
        return False
    return rows == others


def _check_parallelism(model: Any) -> None:
    """InputError where the denoiser is split over several processes in a way that features cannot follow."""
    parallel = getattr(model, "_parallel_config", None)
    if parallel is not None and parallel.tensor_parallel_config is not None:
        raise InputError(
            f"The {type(model).__name__} is split by tensor parallelism, where each process has some heads alone and "
            f"image features are for all; use context parallelism (diffusers' ContextParallelConfig)."
        )


def _rows_of_this_process(model: Any, rows: ImageRows | None) -> ImageRows | None:
    """The drawn image's rows among those that this process has of the sequence, under context parallelism."""
    parallel = getattr(model, "_parallel_config", None)
    if rows is None or parallel is None:
        return rows
    if type(model)._cp_plan is None:
        raise InputError(
            f"The {type(model).__name__} runs under a plan of context parallelism that is not diffusers' own, so it is "
            f"not known which rows of the image each process has; run it on one process."
        )
    group = parallel.context_parallel_config._flattened_mesh.get_group()
    return rows.part(get_rank(group), get_world_size(group))
