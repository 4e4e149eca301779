"""What holds the state of a PymoNNtorch network, and under which names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Generator, Tensor

__all__ = ["CONTAINERS", "PLAIN", "attributes", "is_state", "name_of", "owners"]

PLAIN = (bool, int, float, str, type(None))
CONTAINERS = (list, tuple, dict)

_GIVEN = frozenset(("device", "init_kwargs", "tags", "tag_shortcuts"))
"""What says how an object was made, and is found by; not what became of it."""


def owners(network: Any) -> list[Any]:
    """What holds the state of a network: it, its groups, and the behaviors of all.

    Parameters
    ----------
    network : Network
        The network.

    Returns
    -------
    list
        Each once, the same in any network that the same script has built.

    Examples
    --------
    >>> from pymonntorch import Network, NeuronGroup
    >>> network = Network()
    >>> _ = NeuronGroup(3, network, tag="cells")
    >>> [name_of(owner) for owner in owners(network)]
    ['Network_1', 'cells']
    """
    found = {id(network): network}
    found |= {id(group): group for group in (*network.NeuronGroups, *network.SynapseGroups)}
    for _, parent, behavior in network.sorted_behavior_execution_list:
        others = getattr(behavior, "state_owners", ())  # which no group of the network is
        found |= {id(owner): owner for owner in (parent, behavior, *others)}
    return list(found.values())


def attributes(owner: Any) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """What is set on an object, less private containers, which are a module's parts, and what it was made with.

    Parameters
    ----------
    owner : Network, NeuronGroup, SynapseGroup or Behavior
        The object.

    Yields
    ------
    tuple
        The dict that holds the attribute, its name, its value.

    Examples
    --------
    >>> from pymonntorch import Network
    >>> {name: value for _, name, value in attributes(Network())}["_iteration"]
    0
    """
    for kept in (owner.__dict__, owner.__dict__.get("_buffers", {}), owner.__dict__.get("_parameters", {})):
        for name, value in kept.items():
            is_part = isinstance(value, CONTAINERS) and name.startswith("_")
            if name not in _GIVEN and not is_part:
                yield kept, name, value


def is_state(value: Any) -> bool:
    """Whether a value is all data: tensors, generators, numbers, bools, strings and None, and containers of these.

    Parameters
    ----------
    value : Any
        The value of an attribute.

    Returns
    -------
    bool
        False for what is, or holds, any other object or a function, or NumPy's numbers and arrays.

    Examples
    --------
    >>> is_state({"recent": [1, 2.0]}), is_state([print])
    (True, False)
    """
    if isinstance(value, dict):
        return all(type(key) in PLAIN and is_state(of_key) for key, of_key in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_state, value))
    return type(value) in PLAIN or isinstance(value, (Tensor, Generator))


def name_of(owner: Any) -> str:
    """The first tag of an object, or else its class.

    Parameters
    ----------
    owner : Any
        The object.

    Returns
    -------
    str
        The name.

    Examples
    --------
    >>> name_of(object())
    'object'
    """
    return str(owner.tags[0]) if getattr(owner, "tags", None) else type(owner).__name__
