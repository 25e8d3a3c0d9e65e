"""Check the arguments of a call: diffusers' pipelines take any keyword and ignore what they do not know."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from diffusers import DiffusionPipeline

from a4a.errors import InputError

OURS = ("image_prompt", "image_prompt_embeds", "image_prompt_scale")
NATIVE = {
    "ip_adapter_image": "image_prompt",
    "ip_adapter_image_embeds": "image_prompt_embeds",
    "ip_adapter_scale": "image_prompt_scale",
}
"""Arguments of diffusers' own IP-Adapters, and ours that mean the same."""


def plain_call(pipe: Any) -> Any:
    """The call of a pipeline without image prompts, which `load_a4a` may have added to it."""
    return pipe.plain_call if hasattr(pipe, "plain_call") else pipe.__call__


def bind(
    pipe: DiffusionPipeline, args: Sequence[Any], kwargs: Mapping[str, Any], own: Iterable[str] = ()
) -> inspect.BoundArguments:
    """The arguments of a call by their names; InputError for a keyword that the pipeline's signature does not have.

    `own` are further arguments that the caller takes itself; hints in errors name them, too.
    """
    signature = inspect.signature(plain_call(pipe))
    named = {name for name, parameter in signature.parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    check_names(type(pipe).__name__, kwargs, named.union(own))
    return signature.bind(*args, **kwargs)


def check_names(pipeline: str, given: Iterable[str], named: Iterable[str]) -> None:
    """InputError, with a hint, for the first argument in `given` that is not in `named`."""
    named = sorted({*named, *OURS} - NATIVE.keys())
    for name in given:
        if name in named:
            continue
        near = [NATIVE[name]] if name in NATIVE else get_close_matches(name, named, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(named)}."
        raise InputError(f"{pipeline} takes no argument {name}; {hint}")


def prompt_count(options: Mapping[str, Any]) -> int:
    """How many prompts a call has."""
    prompt, embeds = options.get("prompt"), options.get("prompt_embeds")
    if isinstance(prompt, str):
        return 1
    given = prompt if prompt is not None else embeds
    if given is None:
        raise InputError("A prompt is missing; give prompt= or prompt_embeds=.")
    return len(given)
