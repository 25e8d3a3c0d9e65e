"""The folder of a pipeline with its adapters: a diffusers pipeline's, with one folder and one file more.

`image_prompt_adapter/` holds the adapter, or a folder for each of several. `pipeline.py` lets diffusers load the pipeline
with image prompts: `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.loading import load_adapter
from a4a.errors import InputError
from a4a.pipeline.adapter import DEFAULT, EncodedAdapter
from a4a.utils.files import atomic_write

ADAPTER_FOLDER = "image_prompt_adapter"
"""Folder of the adapter inside that of a saved pipeline."""

PIPELINE = '''"""{name} that takes image prompts. It needs a4a, the package that wrote this file."""

from {module} import {name}

from a4a.pipeline.mixin import WithImagePrompt


class {name}WithImagePrompt(WithImagePrompt, {name}):
    pass
'''


def stock_class(pipe: DiffusionPipeline) -> type[DiffusionPipeline]:
    """The pipeline's class as diffusers has it, without `WithImagePrompt`."""
    stock = (kind for kind in type(pipe).__mro__ if kind.__module__.split(".")[0] == "diffusers")
    return next(kind for kind in stock if not hasattr(kind, "plain_call"))


def check_saving(adapters: Mapping[str, EncodedAdapter], options: Mapping[str, Any]) -> None:
    """InputError before anything is written: for an image encoder without a name, and for a push in the same call."""
    if options.get("push_to_hub", False):
        raise InputError("save_pretrained writes a folder; to push it to the hub, call push_to_hub(name).")
    for adapter in adapters.values():
        adapter.check_saveable()


def save_with_adapters(pipe: DiffusionPipeline, adapters: Mapping[str, EncodedAdapter], folder: Path) -> None:
    """Completes the folder of a saved pipeline. Raises InputError for an image encoder that was made in memory."""
    own = folder / ADAPTER_FOLDER
    for name, adapter in adapters.items():
        adapter.save(own if list(adapters) == [DEFAULT] else own / name)
    stock = stock_class(pipe)
    module = "diffusers" if hasattr(__import__("diffusers"), stock.__name__) else stock.__module__
    with atomic_write(folder / "pipeline.py") as file:
        file.write_text(PIPELINE.format(name=stock.__name__, module=module))
    index = json.loads((folder / "model_index.json").read_text())
    if index["_class_name"] != stock.__name__:  # others load the folder as the plain pipeline
        with atomic_write(folder / "model_index.json") as file:
            file.write_text(json.dumps({**index, "_class_name": stock.__name__}, indent=2) + "\n")


def load_saved_adapters(model: str | Path) -> dict[str, ImagePromptAdapter]:
    """The adapters in the folder of a saved pipeline, by their names; InputError where there are none."""
    folder = Path(model).expanduser()
    if not folder.is_dir() and not str(model).startswith("zoo:"):  # a hub name
        return {DEFAULT: load_adapter(f"{model}/{ADAPTER_FOLDER}")}
    own = folder / ADAPTER_FOLDER
    folders = {path.parent.name: path.parent for path in sorted(own.glob("*/config.json"))}
    if (own / "config.json").is_file():
        folders = {DEFAULT: own}
    if not folders:
        raise InputError(f"{model} has no folder {ADAPTER_FOLDER}; give adapter=.")
    return {name: load_adapter(folder) for name, folder in folders.items()}
