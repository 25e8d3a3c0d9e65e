"""One all-for-all mapping for several source adapters of the same base model. **Ours**, not the paper's."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from a4a.adapters.a4a import A4A, but_float32
from a4a.adapters.base import ImagePromptAdapter, Linears, adapter_from_config, adapter_to_config, sites_to_config
from a4a.encoders.base import Output
from a4a.errors import InputError
from a4a.features import Site, SiteFeatures, differing_site
from a4a.method.linears import Sharing
from a4a.method.mapping import Connectivity


class MultiSourceA4A(ImagePromptAdapter):
    """Several source adapters that share mapping and alignment; `select` gives the A4A of one of them, to be used.

    Each source keeps a coupling space projection of its own, since that starts as the inverse of the source's layers.
    A source with fewer tokens than another repeats them, so that all have the same number.

    Args:
        bases: by a name of your choice, class name and configuration of each source adapter. All are for the same base
            sites.
        sites: of the upgraded model.
        d_scm, rounds, inner, heads, residual, sharing, warm_start, connectivity, coupling, base_sites, text_width,
            alignment_rank: see `A4A`.
    """

    kind = "A4A of several sources"

    @register_to_config
    def __init__(
        self,
        bases: dict[str, dict[str, Any]],
        sites: list[list[Any]],
        d_scm: int | None = None,
        rounds: int = 2,
        inner: int | None = None,
        heads: int = 8,
        residual: bool = True,
        sharing: Sharing = "site",
        warm_start: bool = True,
        connectivity: Connectivity = "all_to_all",
        coupling: bool = True,
        base_sites: int | None = None,
        text_width: int | None = None,
        alignment_rank: int | None = None,
    ):
        super().__init__()
        _check_bases(bases)
        tokens = math.lcm(*(adapter_from_config(base).tokens for base in bases.values()))
        self._adapters = {
            name: A4A(
                base,
                sites,
                d_scm=d_scm,
                rounds=rounds,
                inner=inner,
                heads=heads,
                residual=residual,
                sharing=sharing,
                warm_start=warm_start,
                connectivity=connectivity,
                coupling=coupling,
                base_sites=base_sites,
                text_width=text_width,
                alignment_rank=alignment_rank,
                tokens=tokens,
            )
            for name, base in bases.items()
        }
        first = next(iter(self._adapters.values()))
        for adapter in self._adapters.values():
            adapter.mapping.share(first.mapping)
        self.sites, self.tokens = first.sites, tokens
        self.sources = nn.ModuleDict({name: adapter.source for name, adapter in self._adapters.items()})
        self.projections = nn.ModuleDict(
            {name: nn.ModuleList(adapter.mapping.projections) for name, adapter in self._adapters.items()}
        )
        self.mappings = nn.ModuleList(first.mapping.mappings)
        self.alignments = nn.ModuleList(first.mapping.alignments)

    @classmethod
    def from_sources(
        cls,
        sources: Mapping[str, ImagePromptAdapter],
        sites: Sequence[Site],
        text: tuple[Linears, Linears] | None = None,
        **options: Any,
    ) -> "MultiSourceA4A":
        """An untrained transfer of all `sources`, which are copied; the other arguments are those of `A4A.from_source`.

        Raises InputError where the sources are for different base models or image encoders.
        """
        _check_same_base(sources)
        _check_same_encoder(sources)
        text_width = text[0][0].in_features if text is not None else None
        bases = {name: adapter_to_config(source) for name, source in sources.items()}
        adapter = cls(bases, sites_to_config(sites), text_width=text_width, **options)
        for name, source in sources.items():
            adapter.sources[name].load_state_dict(source.state_dict())
        if text is not None:
            next(iter(adapter.adapters.values())).mapping.init_alignment(text)
        return adapter

    @property
    def adapters(self) -> Mapping[str, A4A]:
        """The A4A of each source, by its name; they share mapping and alignment with each other and with this one."""
        return self._adapters

    def select(self, name: str | None) -> A4A:
        """The adapter of one source, sharing its weights with this one; InputError where there is none of that name."""
        if name not in self._adapters:
            chosen = "none was chosen" if name is None else f"{name!r} is none of them"
            raise InputError(
                f"The adapter has the sources {', '.join(self._adapters)}, and {chosen}; "
                "give one of these as source (in Python: adapter.select)."
            )
        return self._adapters[name]

    @property
    def encoder_outputs(self) -> tuple[Output, ...]:
        """All that the sources take of the image encoder."""
        return tuple(dict.fromkeys(adapter.encoder_output for adapter in self._adapters.values()))

    @property
    def image_encoder(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] (all sources have the same)
        return next(iter(self._adapters.values())).image_encoder

    def init_projection(self, embeds: Mapping[Output, Tensor], rtol: float | None = None) -> None:
        """As `A4A.init_projection`, of each source over its own conditions.

        The first source's directions are followed by the others.

        Args:
            embeds: of the same references, by what the image encoder gives.
            rtol: as there.
        """
        first = None
        for adapter in self._adapters.values():
            whitened = adapter.init_projection(embeds[adapter.encoder_output], rtol, first)
            first = first or whitened

    def forward(self, embeds: Tensor) -> SiteFeatures:
        """An adapter is used with one of its sources: InputError that lists them."""
        return self.select(None)(embeds)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MultiSourceA4A":
        """As an A4A: float32 in every pipeline."""
        return super()._apply(partial(but_float32, fn), recurse)

    def set_image_encoder(self, name: str) -> None:
        for adapter in self._adapters.values():
            adapter.set_image_encoder(name)
        self.register_to_config(bases={name: adapter_to_config(a.source) for name, a in self._adapters.items()})

    def train_source(self, mode: bool) -> None:
        for adapter in self._adapters.values():
            adapter.train_source(mode)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            "projection": [*self.projections.parameters(), *self.alignments.parameters()],
            "mapping": list(self.mappings.parameters()),
            "adapter": list(self.sources.parameters()),
        }

    def parameters_behind(self, sites: Collection[int] | None) -> list[nn.Parameter]:
        found = [p for adapter in self._adapters.values() for p in adapter.parameters_behind(sites)]
        return list(dict.fromkeys(found))

    def facts(self) -> dict[str, Any]:
        sources: dict[str, Any] = {"sources": ", ".join(self._adapters)}
        sources |= {
            f"source {name}": f"{adapter.source.kind} of {adapter.encoder_output} embeddings, "
            f"{adapter.source.tokens} tokens"
            for name, adapter in self._adapters.items()
        }
        return {**sources, "precision": "float32 in every pipeline"}

    def embeddings(self) -> str:
        return "; ".join(f"{name}: {adapter.embeddings()}" for name, adapter in self._adapters.items())

    def usage(self) -> str:
        return f'.select("{next(iter(self._adapters))}")  # or {", ".join(list(self._adapters)[1:])}'

    def origin(self, model: str | None, source: str | None) -> str:
        return f"It was transferred from several source adapters by one A4A: {', '.join(self._adapters)}."


def choose_source(adapter: ImagePromptAdapter, name: str | None = None) -> ImagePromptAdapter:
    """The adapter of the source of this name, where there are several; any other adapter as it is.

    Raises InputError where there are several and no name, or a name and not several.
    """
    if isinstance(adapter, MultiSourceA4A):
        return adapter.select(name)
    if name is not None:
        raise InputError(
            f"source is {name!r} but the adapter is {adapter.kind}, without a choice of sources; leave it out."
        )
    return adapter


def _check_bases(bases: Any) -> None:
    if not isinstance(bases, dict) or len(bases) < 2:
        raise InputError(f"An A4A of several sources needs two or more by name, and has {bases!r}.")
    if wrong := next((name for name in bases if not name or "." in name), None):
        raise InputError(f"A source is called {wrong!r}; give a name without a dot.")


def _check_same_base(sources: Mapping[str, ImagePromptAdapter]) -> None:
    (first, expected), *others = sources.items()
    for name, source in others:
        if (difference := differing_site(expected.sites, source.sites, names=False)) is not None:
            raise InputError(
                f"The sources {first} and {name} are for different base models: {difference}; "
                "give adapters of one base model."
            )


def _check_same_encoder(sources: Mapping[str, ImagePromptAdapter]) -> None:
    """InputError where two sources name different image encoders; published files name none."""
    named = {name: source.image_encoder_path for name, source in sources.items()}
    known = {name: encoder for name, encoder in named.items() if encoder is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} {encoder}" for name, encoder in known.items())
        raise InputError(f"The sources take different image encoders ({listed}); give adapters of the same one.")
