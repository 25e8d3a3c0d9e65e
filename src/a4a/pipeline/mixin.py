"""Image prompts for a diffusers pipeline itself, in the manner of `load_ip_adapter`."""

from pathlib import Path
from typing import Any, cast

from diffusers import DiffusionPipeline
from torch import Tensor

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.loading import load_adapter
from a4a.adapters.multi_source import choose_source
from a4a.encoders import ImageEncoder
from a4a.errors import InputError
from a4a.pipeline.adapter import DEFAULT, EncodedAdapter
from a4a.pipeline.image_prompt import ImagePrompts
from a4a.pipeline.pipeline import ImagePromptPipeline
from a4a.pipeline.saving import check_saving, load_saved_adapters, save_with_adapters, stock_class
from a4a.pipeline.scales import SiteScale, scales_of


class WithImagePrompt:
    """Comes before the class of a diffusers pipeline, whose call then takes image prompts, too."""

    _adapters: dict[str, EncodedAdapter]

    def __call__(
        self,
        *args: Any,
        image_prompt: ImagePrompts | None = None,
        image_prompt_embeds: Tensor | None = None,
        image_prompt_scale: SiteScale | None = None,
        **kwargs: Any,
    ) -> Any:
        """As `ImagePromptPipeline.__call__`; the scale is by default that of `set_a4a_scale`."""
        scale = self.__dict__.get("_scale", 1.0) if image_prompt_scale is None else image_prompt_scale
        prompts = {"image_prompt": image_prompt, "image_prompt_embeds": image_prompt_embeds}
        return self._with_image_prompt()(*args, **prompts, image_prompt_scale=scale, **kwargs)

    def _with_image_prompt(self) -> ImagePromptPipeline:
        if not self.__dict__.get("_adapters"):
            raise InputError("No image-prompt adapter is loaded; call load_a4a(pipe, adapter) first.")
        return ImagePromptPipeline(cast("DiffusionPipeline", self), self._adapters)

    @property
    def plain_call(self) -> Any:
        """The call of the pipeline without image prompts."""
        return super().__call__  # pyright: ignore[reportAttributeAccessIssue]

    def set_a4a_scale(self, scale: SiteScale) -> None:
        """The scale of image prompts in calls that give none: what a call takes as `image_prompt_scale`."""
        scales_of(scale, self._with_image_prompt().backbone.sites, "scale")
        self._scale = scale

    def unload_a4a(self, name: str | None = None) -> None:
        """Takes one adapter away, or all; without any, the pipeline is the plain one again."""
        if name is not None and name not in self._adapters:
            raise InputError(f"There is no adapter {name!r}; the pipeline has {', '.join(self._adapters)}.")
        left = {} if name is None else {other: one for other, one in self._adapters.items() if other != name}
        if left:
            self._adapters = left
            return
        for attribute in ("_adapters", "_scale"):
            self.__dict__.pop(attribute, None)
        self.__class__ = stock_class(cast("DiffusionPipeline", self))  # pyright: ignore[reportAttributeAccessIssue]

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """As diffusers does, and the adapters, so that `from_pretrained` with `custom_pipeline` loads them, too."""
        check_saving(self._adapters, options)
        super().save_pretrained(save_directory, **options)  # pyright: ignore[reportAttributeAccessIssue]
        save_with_adapters(cast("DiffusionPipeline", self), self._adapters, Path(save_directory))

    def register_to_config(self, **values: Any) -> None:
        """Where `from_pretrained` says at its end which folder a pipeline came from, loads the adapters in it."""
        super().register_to_config(**values)  # pyright: ignore[reportAttributeAccessIssue]
        if "_name_or_path" in values and "_adapters" not in self.__dict__:
            saved = load_saved_adapters(values["_name_or_path"])
            self._adapters = {name: EncodedAdapter(adapter) for name, adapter in saved.items()}
            self._with_image_prompt()  # checks that they fit


def load_a4a(
    pipe: DiffusionPipeline,
    adapter: ImagePromptAdapter | str | Path,
    image_encoder: ImageEncoder | str | Path | None = None,
    source: str | None = None,
    name: str = DEFAULT,
) -> None:
    """Lets a diffusers pipeline take image prompts itself: `pipe("a dog", image_prompt="cat.png")`.

    It stays the pipeline that it is, with `set_a4a_scale` and `unload_a4a` added; `save_pretrained` and `push_to_hub`
    save the adapter, too. A second adapter goes by another `name`.

    Args:
        pipe: pipeline of a denoiser that a backbone serves.
        adapter: an adapter, or its folder, file, hub name or zoo:NAME.
        image_encoder: as for `ImagePromptPipeline`.
        source: which of its sources the adapter is used with, by name, where it has several.
        name: how `ImagePrompt(..., adapter=name)` calls it.

    Raises InputError where the adapter does not fit; the pipeline is then what it was.
    """
    loaded = adapter if isinstance(adapter, ImagePromptAdapter) else load_adapter(adapter)
    adapters = {
        **pipe.__dict__.get("_adapters", {}),
        name: EncodedAdapter(choose_source(loaded, source), image_encoder),
    }
    ImagePromptPipeline(pipe, adapters)  # checks that they fit
    if not isinstance(pipe, WithImagePrompt):
        stock = type(pipe)
        pipe.__class__ = type(stock.__name__, (WithImagePrompt, stock), {"__module__": stock.__module__})
    pipe._adapters = adapters
