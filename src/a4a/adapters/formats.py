"""Published IP-Adapter checkpoints: which family a file is of, reading and writing it.

A `.bin` holds `{"image_proj": {...}, "ip_adapter": {...}}`, a `.safetensors` the same as flat keys. Layers are numbered
as `unet.attn_processors` lists them (down, up, middle); cross-attention has the odd numbers.
"""

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from a4a.adapters.base import ImagePromptAdapter, sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.projections import ImageProjection, projection_families, recognise
from a4a.adapters.projections.base import UNSUPPORTED
from a4a.encoders.published import encoder_name
from a4a.errors import InputError, first_line
from a4a.features import Site
from a4a.utils.files import atomic_write, save_torch
from a4a.utils.hub import is_local, resolve_zoo

Tensors = dict[str, Tensor]

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Description:
    """What kind of adapter a checkpoint holds, by its keys and shapes alone.

    Attributes:
        family: as IP-Adapter publishes it.
        projection: the condition encoder's class; None where the family is not supported.
        options: arguments of that class.
        text_width: of the base model's text states.
        sites: named by the layers' numbers in the file.
    """

    family: str
    projection: type[ImageProjection] | None
    options: dict[str, Any]
    text_width: int
    sites: tuple[Site, ...]

    @property
    def image_encoder(self) -> str | None:
        """The kind of image encoder that the family takes; None where the family is not supported."""
        if self.projection is None:
            return None
        return encoder_name(self.projection.encoder_output, self.options["image_embed_dim"])


def read(path: str | Path) -> IPAdapter:
    """A published adapter, from a file, a folder with one such file, or `owner/repo/path` on the hub.

    Raises InputError where there is no such file, where it cannot be read, and where its family is not supported.
    """
    image_proj, layers = load_halves(path)
    description = describe(image_proj, layers, path)
    if description.projection is None or description.image_encoder is None:
        raise InputError(
            f"{path} is an IP-Adapter of the {description.family} family, which cannot be read: "
            f"{UNSUPPORTED[description.family].reason}; "
            f"give one of the families {', '.join(projection_families())}."
        )
    try:
        adapter = IPAdapter(
            sites_to_config(description.sites),
            {"family": description.family, **description.options},
            description.image_encoder,
        )
        adapter.image_proj.load_published(image_proj)
        for kind, own in zip("kv", adapter.key_value_layers(), strict=True):
            for site, layer in zip(description.sites, own, strict=True):
                layer.load_state_dict({"weight": layers[f"{site.name}.to_{kind}_ip.weight"]})
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole IP-Adapter of the {description.family} family: "
            f"{str(error).strip().splitlines()[-1].strip()}"
        ) from error
    return adapter


def write(adapter: ImagePromptAdapter, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """The published layout, which diffusers' `load_ip_adapter` reads; `.safetensors` or `.bin` by the file's name.

    Raises InputError where the adapter is none of the published kind, such as a transferred one.
    """
    path = Path(path)
    image_proj = adapter.image_projection().published_state()
    layers = {
        f"{2 * i + 1}.to_{kind}_ip.weight": layer.weight.detach()
        for kind, own in zip("kv", adapter.key_value_layers(), strict=True)
        for i, layer in enumerate(own)
    }
    halves = {
        half: {name: t.to(dtype).cpu().contiguous() for name, t in part.items()}
        for half, part in (("image_proj", image_proj), ("ip_adapter", layers))
    }
    with atomic_write(path) as temporary:
        if path.suffix == ".bin":
            save_torch(halves, temporary)
        else:
            save_file({f"{half}.{name}": t for half, part in halves.items() for name, t in part.items()}, temporary)


def describe(image_proj: Tensors, layers: Tensors, path: str | Path) -> Description:
    """Family, sizes and sites of a checkpoint; InputError where the keys are not those of an IP-Adapter."""
    found = recognise(image_proj)
    keys = {int(m[1]): t for name, t in layers.items() if (m := re.fullmatch(r"(\d+)\.to_k_ip\.weight", name))}
    if found is None or not keys:
        names = ", ".join([*list(image_proj)[:2], *list(layers)[:2]]) or "nothing"
        raise InputError(
            f"{path} has no layout of a known IP-Adapter: found {names}; "
            f"expected image_proj.proj.weight and ip_adapter.1.to_k_ip.weight or their like."
        )
    family, projection = found
    numbers = sorted(keys)
    missing = [f"{n}.to_v_ip.weight" for n in numbers if f"{n}.to_v_ip.weight" not in layers]
    if missing:
        raise InputError(
            f"{path} is incomplete: it has {numbers[0]}.to_k_ip.weight but lacks {missing[0]}; download it again."
        )
    if any(t.ndim != 2 for t in keys.values()):
        raise InputError(f"{path} is damaged: {numbers[0]}.to_k_ip.weight is no matrix; download it again.")
    text_width, widths = keys[numbers[0]].shape[1], [keys[n].shape[0] for n in numbers]
    try:
        options = projection.options(image_proj, text_width) if projection is not None else {}
    except (ValueError, IndexError, KeyError, ZeroDivisionError) as error:
        raise InputError(f"{path} has tensors that no {family} adapter has ({first_line(error)}).") from error
    depths = execution_depths(widths)
    sites = tuple(Site(str(n), w, d) for n, w, d in zip(numbers, widths, depths, strict=True))
    return Description(family, projection, options, text_width, sites)


def execution_depths(widths: Sequence[int]) -> list[float]:
    """Depths of a U-Net's sites that are listed as down, up, middle, from their widths alone.

    The middle block starts at the last rise of the width (SD1.5: 320 to 1280); where the list ends with the widest
    sites, it is the last site. A U-Net with n layers a block going down has n + 1 going up; diffusers' have 2 and 3.
    """
    count = len(widths)
    rises = [i for i in range(1, count) if widths[i] > widths[i - 1]]
    middle = rises[-1] if rises and widths[rises[-1]] == max(widths) and rises[-1] > count // 2 else count - 1
    down = round(middle * 2 / 5)
    executed = [*range(down), *range(middle, count), *range(down, middle)]
    place = {site: i for i, site in enumerate(executed)}
    return [place[i] / max(count - 1, 1) for i in range(count)]


def load_halves(path: str | Path) -> tuple[Tensors, Tensors]:
    """The two halves of a checkpoint, `image_proj` and `ip_adapter`, with their prefixes removed."""
    file = find_checkpoint(path)
    flat = _load_flat(file)
    halves: tuple[Tensors, Tensors] = ({}, {})
    for name, tensor in flat.items():
        for half, prefixes in zip(halves, (("image_proj.",), ("ip_adapter.", "adapter_modules.")), strict=True):
            prefix = next((p for p in prefixes if name.startswith(p)), None)
            if prefix is not None:
                half[name.removeprefix(prefix)] = tensor
    return halves


def _load_flat(file: Path) -> Tensors:
    """The tensors of a file under flat names; no code in a pickle is run."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        loaded = torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise InputError(
                f"{file} is a pickle that would run code when loaded, so it was not; "
                f"get the adapter as .safetensors from a source that you trust."
            ) from error
        raise InputError(f"{file} is truncated or corrupted; download it again.") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise InputError(f"{file} is truncated or corrupted ({first_line(error)}); download it again.") from error
    if not isinstance(loaded, dict):
        raise InputError(
            f"{file} holds a {type(loaded).__name__}; "
            f"expected a dict with image_proj and ip_adapter, as IP-Adapter publishes it."
        )
    parts = {half: part for half, part in loaded.items() if isinstance(part, dict)}
    nested = {f"{half}.{name}": t for half, part in parts.items() for name, t in part.items() if isinstance(t, Tensor)}
    return nested | {str(name): t for name, t in loaded.items() if isinstance(t, Tensor)}


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that a path, a folder, zoo:NAME or a hub name stands for; InputError where there is none."""
    name = resolve_zoo(path)
    local = Path(name).expanduser()
    if local.is_dir():
        return _file_in(local)
    if local.is_file():
        if local.suffix not in SUFFIXES:
            raise InputError(
                f"{path} is no adapter file by its ending {local.suffix or '(none)'}; expected .safetensors or .bin."
            )
        return local
    owner, _, rest = name.partition("/")
    repo, _, inside = rest.partition("/")
    if not inside or is_local(name):
        raise InputError(
            f"There is no adapter file {path}; give a .safetensors or .bin file, a folder with one, "
            f"or a hub name such as h94/IP-Adapter/models/ip-adapter_sd15.safetensors."
        )
    try:
        return Path(hf_hub_download(f"{owner}/{repo}", inside))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"There is no adapter file {path} here, and the hub did not give {inside} of {owner}/{repo} "
            f"({first_line(error)}); check the name or the connection."
        ) from error


def _file_in(folder: Path) -> Path:
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    if len(files) != 1:
        names = ", ".join(f.name for f in files) or "none"
        raise InputError(
            f"The folder {folder} holds {len(files)} adapter files ({names}); "
            f"expected one .safetensors or .bin file: name the one that you mean."
        )
    return files[0]
