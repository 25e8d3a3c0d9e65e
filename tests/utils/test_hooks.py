import torch
from accelerate.hooks import ModelHook as AccelerateHook
from accelerate.hooks import add_hook_to_module
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from a4a.utils.hooks import drop_needless_forward, exchange_own_forward, own_forward_is_hidden


class Doubler(nn.Module):
    def forward(self, x):
        return 2 * x


def tripled(module, x):
    return 3 * x


class Negated(ModelHook):
    def new_forward(self, module, x):
        return -self.fn_ref.original_forward(x)


def test_a_modules_own_forward_is_replaced_beneath_hooks_of_both_libraries_and_restored():
    module = Doubler()
    HookRegistry.check_if_exists_or_initialize(module).register_hook(Negated(), "negated")
    add_hook_to_module(module, AccelerateHook())
    one = torch.ones(1)
    assert module(one) == -2
    exchange_own_forward(module, Doubler.forward, tripled)
    assert module(one) == -3
    exchange_own_forward(module, tripled, Doubler.forward)
    assert module(one) == -2


def test_methods_of_other_modules_are_left_alone():
    module, other = Doubler(), Doubler()
    module.forward = other.forward
    exchange_own_forward(module, Doubler.forward, tripled)
    assert module(torch.ones(1)) == 2
    assert own_forward_is_hidden(module)


def test_a_forward_replaced_by_hand_hides_the_modules_own_and_hooks_do_not():
    module = Doubler()
    assert not own_forward_is_hidden(module)
    HookRegistry.check_if_exists_or_initialize(module).register_hook(Negated(), "negated")
    assert not own_forward_is_hidden(module)
    module.forward = lambda x: x  # although the hook still keeps the own one
    assert own_forward_is_hidden(module)
    module = Doubler()
    module.forward = lambda x: x
    assert own_forward_is_hidden(module)


def test_a_removed_hook_leaves_nothing_on_the_instance():
    module = Doubler()
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(Negated(), "negated")
    registry.remove_hook("negated")
    drop_needless_forward(module)
    assert "forward" not in module.__dict__
    module.forward = kept = lambda x: x
    drop_needless_forward(module)
    assert module.forward is kept
