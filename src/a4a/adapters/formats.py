"""Published IP-Adapter checkpoints: which variant a file is, reading the base family, writing it back.

A `.bin` holds `{"image_proj": {...}, "ip_adapter": {...}}`, a `.safetensors` the same as flat keys. Layers are numbered as
`unet.attn_processors` lists them (down, up, middle); cross-attention has the odd numbers.
"""

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from a4a.adapters.ip_adapter import IPAdapter
from a4a.errors import InputError, first_line
from a4a.features import Site
from a4a.utils.files import atomic_write, save_torch
from a4a.utils.hub import resolve_zoo

Tensors = dict[str, Tensor]

# In this order: later signatures are parts of earlier ones.
VARIANTS = (
    ("full-face", {"proj.0.weight", "proj.2.weight", "proj.3.weight"}),
    ("FaceID-plus", {"perceiver_resampler.proj_in.weight"}),
    ("FaceID", {"proj.0.weight", "proj.2.weight", "norm.weight"}),
    ("plus", {"latents", "proj_in.weight", "proj_out.weight"}),
    ("base", {"proj.weight", "norm.weight"}),
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
ENCODERS = {1024: "CLIP ViT-H/14", 1280: "CLIP ViT-bigG/14"}


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, by its keys and shapes alone."""

    variant: str
    tokens: int | None
    image_embed_dim: int | None
    text_width: int
    sites: tuple[Site, ...]

    @property
    def encoder(self) -> str:
        return ENCODERS.get(
            self.image_embed_dim or 0, f"an image encoder with embeddings of width {self.image_embed_dim}"
        )


def read(path: str | Path) -> IPAdapter:
    """A published adapter of the base family, from a file, a folder with one such file, or `owner/repo/path` on the hub.

    Raises InputError where there is no such file, where it cannot be read, and where it is of another layout.
    """
    image_proj, layers = load(path)
    description = describe(image_proj, layers, path)
    if description.variant != "base":
        raise InputError(
            f"{path} is an IP-Adapter of the {description.variant} family; only the base family (proj.weight, norm.weight) can be transferred so far."
        )
    sites = [[s.name, s.width, s.depth] for s in description.sites]
    adapter = IPAdapter(
        sites, description.image_embed_dim, description.text_width, description.tokens, description.encoder
    )  # pyright: ignore[reportArgumentType]
    state = {f"image_proj.{name}": t for name, t in image_proj.items()}
    for i, site in enumerate(description.sites):
        for kind in ("k", "v"):
            state[f"to_{kind}.{i}.weight"] = layers[f"{site.name}.to_{kind}_ip.weight"]
    try:
        adapter.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{path} is not a whole IP-Adapter of the base family: {first}") from error
    return adapter


def write(adapter: IPAdapter, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """The published layout, which diffusers' `load_ip_adapter` reads; `.safetensors` or `.bin` by the file's name."""
    path = Path(path)
    tensors = {name: t.to(dtype).cpu().contiguous() for name, t in adapter.state_dict().items()}
    image_proj = {name.removeprefix("image_proj."): t for name, t in tensors.items() if name.startswith("image_proj.")}
    layers = {}
    for i in range(len(adapter.sites)):
        for kind in ("k", "v"):
            layers[f"{2 * i + 1}.to_{kind}_ip.weight"] = tensors[f"to_{kind}.{i}.weight"]
    with atomic_write(path) as beside:
        if path.suffix == ".bin":
            save_torch({"image_proj": image_proj, "ip_adapter": layers}, beside)
        else:
            flat = {f"image_proj.{k}": t for k, t in image_proj.items()} | {
                f"ip_adapter.{k}": t for k, t in layers.items()
            }
            save_file(flat, beside)


def describe(image_proj: Tensors, layers: Tensors, path: str | Path) -> Description:
    """Variant, tokens, widths. Raises InputError where the keys are not those of an IP-Adapter."""
    variant = next((name for name, keys in VARIANTS if keys <= image_proj.keys()), None)
    keys = {int(m[1]): t for name, t in layers.items() if (m := re.fullmatch(r"(\d+)\.to_k_ip\.weight", name))}
    if variant is None or not keys:
        found = ", ".join([*list(image_proj)[:2], *list(layers)[:2]]) or "nothing"
        raise InputError(
            f"{path} has no layout of a known IP-Adapter: found {found}; expected image_proj.proj.weight and ip_adapter.1.to_k_ip.weight or their like."
        )
    numbers = sorted(keys)
    missing = [f"{n}.to_v_ip.weight" for n in numbers if f"{n}.to_v_ip.weight" not in layers]
    if missing:
        raise InputError(
            f"{path} is incomplete: it has {numbers[0]}.to_k_ip.weight but lacks {missing[0]}; download it again."
        )
    text_width = keys[numbers[0]].shape[1]
    widths = [keys[n].shape[0] for n in numbers]
    tokens, image_embed_dim = None, None
    if variant == "base":
        rows, image_embed_dim = image_proj["proj.weight"].shape
        tokens = rows // text_width
    elif variant == "plus":
        tokens = image_proj["latents"].shape[1]
    elif variant == "FaceID":
        tokens, image_embed_dim = (
            image_proj["proj.2.weight"].shape[0] // text_width,
            image_proj["proj.0.weight"].shape[1],
        )
    depths = execution_depths(widths)
    sites = tuple(Site(str(n), w, d) for n, w, d in zip(numbers, widths, depths, strict=True))
    return Description(variant, tokens, image_embed_dim, text_width, sites)


def execution_depths(widths: Sequence[int]) -> list[float]:
    """Depths of a U-Net's sites that are listed as down, up, middle, from their widths alone.

    The middle block begins at the last rise of the width (SD1.5: 320 to 1280), or, where the list ends with the widest
    ones, is the last site; a U-Net with n layers a block going down has n + 1 going up, and diffusers' have 2 and 3.
    """
    count = len(widths)
    rises = [i for i in range(1, count) if widths[i] > widths[i - 1]]
    middle = rises[-1] if rises and widths[rises[-1]] == max(widths) and rises[-1] > count // 2 else count - 1
    down = round(middle * 2 / 5)
    executed = [*range(down), *range(middle, count), *range(down, middle)]
    place = {site: i for i, site in enumerate(executed)}
    return [place[i] / max(count - 1, 1) for i in range(count)]


def load(path: str | Path) -> tuple[Tensors, Tensors]:
    """The two halves of a checkpoint, `image_proj` and `ip_adapter`, with their prefixes removed."""
    file = find(path)
    try:
        if file.suffix == ".safetensors":
            flat = load_file(file)
        else:
            loaded = torch.load(file, weights_only=True, map_location="cpu")
            if not isinstance(loaded, dict):
                raise InputError(
                    f"{file} holds a {type(loaded).__name__}; expected a dict with image_proj and ip_adapter, as IP-Adapter publishes it."
                )
            flat = {
                f"{half}.{name}": t
                for half, part in loaded.items()
                if isinstance(part, dict)
                for name, t in part.items()
            }
            flat |= {name: t for name, t in loaded.items() if isinstance(t, Tensor)}
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise InputError(
                f"{file} is a pickle that would run code when loaded, so it was not; get the adapter as .safetensors from a source that you trust."
            ) from error
        raise InputError(f"{file} is truncated or corrupted; download it again.") from error
    except Exception as error:  # what a damaged pickle raises is whatever its bytes happen to mean
        raise InputError(f"{file} is truncated or corrupted ({first_line(error)}); download it again.") from error
    halves: tuple[Tensors, Tensors] = ({}, {})
    for name, tensor in flat.items():
        for half, prefixes in zip(halves, (("image_proj.",), ("ip_adapter.", "adapter_modules.")), strict=True):
            prefix = next((p for p in prefixes if name.startswith(p)), None)
            if prefix is not None:
                half[name.removeprefix(prefix)] = tensor
    return halves


def find(path: str | Path) -> Path:
    """The checkpoint file that a path, a folder or a hub name stands for."""
    path = resolve_zoo(path)
    local = Path(path)
    if local.is_dir():
        files = sorted([*local.glob("*.safetensors"), *local.glob("*.bin")])
        if len(files) != 1:
            names = ", ".join(f.name for f in files) or "none"
            raise InputError(
                f"The folder {path} holds {len(files)} adapter files ({names}); expected one .safetensors or .bin file: name the one that you mean."
            )
        return files[0]
    if local.is_file():
        if local.suffix not in SUFFIXES:
            raise InputError(
                f"{path} is no adapter file by its ending {local.suffix or '(none)'}; expected .safetensors or .bin."
            )
        return local
    owner, _, rest = path.partition("/")
    repo, _, inside = rest.partition("/")
    if not inside or path.startswith((".", "/", "~")):
        raise InputError(
            f"There is no adapter file {path}; give a .safetensors or .bin file, a folder with one, or a hub name such as h94/IP-Adapter/models/ip-adapter_sd15.safetensors."
        )
    try:
        return Path(hf_hub_download(f"{owner}/{repo}", inside))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"There is no adapter file {path} here, and the hub did not give {inside} of {owner}/{repo} ({first_line(error)}); check the name or the connection."
        ) from error
