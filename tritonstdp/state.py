"""What holds the state of a PymoNNtorch network, and under which names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["attributes", "name_of", "owners"]

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
        found |= {id(parent): parent, id(behavior): behavior}
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
            is_part = isinstance(value, (list, tuple, dict)) and name.startswith("_")
            if name not in _GIVEN and not is_part:
                yield kept, name, value


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
