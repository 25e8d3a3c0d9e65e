"""Hooks of diffusers and accelerate: a module's own forward beneath them, and what they remember.

Both libraries replace `module.forward` on the instance and keep the method that was there: diffusers in the function
references of its `HookRegistry`, accelerate as `_old_forward`. A new forward must be put in the place of that method.
"""

from collections.abc import Callable, Iterable
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

_HOOK_MODULES = ("diffusers.hooks.hooks", "accelerate.hooks")
"""Where the functions are defined that call a module's forward for its hooks."""


def own_forward_is_hidden(module: nn.Module) -> bool:
    """Whether something other than these hooks replaced the forward, so that the class's own cannot be exchanged."""
    found, own = module.__dict__.get("forward"), type(module).forward
    if found is None or _is_method(found, module, own):
        return False
    of_a_hook = isinstance(found, partial) and found.func.__module__ in _HOOK_MODULES
    return not of_a_hook or not _places(module, own)


def exchange_own_forward(module: nn.Module, old: Callable, new: Callable) -> None:
    """Puts `new` wherever hooks keep the method `old` of this module; both are functions that take the module first."""
    for place, name in _places(module, old):
        place[name] = MethodType(new, module)


def drop_needless_forward(module: nn.Module) -> None:
    """Removes a `forward` of the instance that is the class's own method, as removed hooks leave one."""
    if _is_method(module.__dict__.get("forward"), module, type(module).forward):
        del module.__dict__["forward"]


def reset_stateful_hooks(modules: Iterable[nn.Module]) -> None:
    """Empties the caches of hooks that keep earlier results, such as pyramid attention broadcast."""
    for module in modules:
        if (registry := module.__dict__.get("_diffusers_hook")) is not None:
            registry.reset_stateful_hooks(recurse=False)


def _places(module: nn.Module, function: Callable) -> list[tuple[dict[str, Any], str]]:
    """The attributes that keep `function` as a method of the module, as the dictionaries that hold them."""
    places = [(module.__dict__, "forward"), (module.__dict__, "_old_forward")]
    registry = module.__dict__.get("_diffusers_hook")
    for reference in registry._fn_refs if registry is not None else []:
        places += [(reference.__dict__, "forward"), (reference.__dict__, "original_forward")]
    return [(place, name) for place, name in places if _is_method(place.get(name), module, function)]


def _is_method(found: Any, module: nn.Module, function: Callable) -> bool:
    return isinstance(found, MethodType) and found.__self__ is module and found.__func__ is function
