"""Attributes are found as ``getattr`` finds them, and kept as ``setattr`` keeps them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Module, Parameter

from tritonstdp.behaviors.synapse import attribute_of, keep


class Plain:
    kind = 3


class Slotted:
    __slots__ = ("size",)


class Own(Module):
    shared = None

    @property
    def asked(self) -> int:
        return 5


class Searching(Module):
    def __getattr__(self, name):
        return Searching


def owners() -> list:
    own = Own()
    own.set, own.child = 1, Module()
    own.__dict__["asked"] = 1.0
    own.register_buffer("buffered", torch.ones(2))
    own.register_buffer("empty", None)
    own.weight = Parameter(torch.ones(1))
    own._modules["shared"] = Module()
    slotted = Slotted()
    slotted.size = 4
    return [own, Plain(), slotted, Searching(), None]


NAMES = ("set", "child", "asked", "buffered", "empty", "weight", "shared", "kind", "size", "missing")


@pytest.mark.parametrize("name", NAMES)
def test_an_attribute_is_what_getattr_gives(name):
    default = object()
    for owner in owners():
        assert attribute_of(owner, name, default) is getattr(owner, name, default), type(owner)


def test_a_tensor_is_kept_as_setattr_keeps_it():
    seen = []

    class Watching(Module):
        def __setattr__(self, name, value):
            seen.append(name)
            super().__setattr__(name, value)

    for owner in (Module(), Watching(), Plain()):
        for value in (torch.ones(1), torch.zeros(1)):
            keep(owner, "pre_spike", value)
            assert owner.pre_spike is value
    assert seen == ["pre_spike"] * 2
    owner = Module()
    keep(owner, "pre_spike", torch.ones(1))
    keep(owner, "pre_spike", Parameter(torch.ones(1)))
    assert list(dict(owner.named_parameters())) == ["pre_spike"]
