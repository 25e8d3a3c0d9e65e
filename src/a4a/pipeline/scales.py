"""How strongly an image prompt acts at each site: numbers, groups of sites, and the weight types of ComfyUI by name.

| weight type | factor of the scale |
|---|---|
| linear | 1 at every site |
| ease in, ease out | falls from 1 to 0 with depth; rises from 0 to 1 |
| ease in-out, reverse in-out | 1 in the middle, falling to 0 at both ends; the reverse |
| weak input, weak middle, weak output | a quarter in `down`, `mid` or `up`, 1 elsewhere; in transformers in thirds |
| strong middle | 1 in the middle one of these parts, a quarter in the others |
| style transfer, composition, style and composition | 1 in the groups `style` or `layout` or both, 0 elsewhere |
| strong style transfer | 1 everywhere but in `layout` |
| style transfer precise, composition precise | as without `precise`, and -1 in the group of the other |

The names are those of ComfyUI's IP-Adapter nodes, so that a workflow can be followed; the numbers are our own.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from a4a.backbones.groups import site_groups, under
from a4a.errors import InputError
from a4a.features import Site
from a4a.injection import Scale, site_scales

SiteScale = Scale | Mapping[str, float]
"""A number for all sites, one for each, or numbers for groups of sites (`backbones/groups.py`) or parts of their names.

Sites that a mapping does not name have 0, as in diffusers; where two names hold a site, the later one counts.
"""

WEAK = 0.25
"""Factor of what a weight type weakens."""
THIRDS = {"down": "early", "mid": "middle", "up": "late"}
"""What stands in for the parts of a U-Net in models without them."""


def scales_of(scale: SiteScale, sites: Sequence[Site], name: str) -> np.ndarray:
    """One number per site [sites]; InputError, which calls the argument `name`, for anything else."""
    if not isinstance(scale, Mapping):
        return np.array(site_scales(scale, len(sites), name))
    groups, numbers = site_groups(sites), np.zeros(len(sites))
    for group, number in scale.items():
        found = groups.get(group) or [i for i, site in enumerate(sites) if site.name == group]
        found = found or under(sites, f"{group}.")
        if not found:
            raise InputError(
                f"{name} names {group!r}, which is no part of this model; expected {', '.join(groups)}, or the start "
                f"of a site's name, such as {sites[0].name.rpartition('.')[0]}."
            )
        numbers[found] = site_scales(number, 1, f"{name}[{group!r}]")[0]
    return numbers


def weight_type_name(weight_type: object) -> str:
    """A weight type as `WEIGHT_TYPES` has it; InputError for an unknown one."""
    name = weight_type.replace("_", " ").lower() if isinstance(weight_type, str) else ""
    if name not in WEIGHT_TYPES:
        raise InputError(f"weight_type is {weight_type!r}; expected one of {', '.join(WEIGHT_TYPES)}.")
    return name


def weight_type_factors(weight_type: str, sites: Sequence[Site]) -> np.ndarray:
    """What a weight type multiplies the scale by at each site [sites]."""
    return WEIGHT_TYPES[weight_type_name(weight_type)](sites)


def _by_depth(curve: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sequence[Site]], np.ndarray]:
    return lambda sites: curve(np.array([site.depth for site in sites]))


def _by_group(elsewhere: float, **factors: float) -> Callable[[Sequence[Site]], np.ndarray]:
    """Factors of groups; of the parts of a U-Net where it has them, else of the thirds in their place."""

    def profile(sites: Sequence[Site]) -> np.ndarray:
        groups, found = site_groups(sites), np.full(len(sites), elsewhere)
        for group, factor in factors.items():
            found[groups[group if group in groups else THIRDS[group]]] = factor
        return found

    return profile


WEIGHT_TYPES: dict[str, Callable[[Sequence[Site]], np.ndarray]] = {
    "linear": _by_depth(np.ones_like),
    "ease in": _by_depth(lambda depth: 1 - depth),
    "ease out": _by_depth(lambda depth: depth),
    "ease in-out": _by_depth(lambda depth: 1 - abs(2 * depth - 1)),
    "reverse in-out": _by_depth(lambda depth: abs(2 * depth - 1)),
    "weak input": _by_group(1, down=WEAK),
    "weak middle": _by_group(1, mid=WEAK),
    "weak output": _by_group(1, up=WEAK),
    "strong middle": _by_group(WEAK, mid=1),
    "style transfer": _by_group(0, style=1),
    "composition": _by_group(0, layout=1),
    "strong style transfer": _by_group(1, layout=0),
    "style and composition": _by_group(0, style=1, layout=1),
    "style transfer precise": _by_group(0, style=1, layout=-1),
    "composition precise": _by_group(0, style=-1, layout=1),
}
"""A factor for each site, by the name of the weight type."""
