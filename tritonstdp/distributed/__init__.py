"""Learning over several processes, each of which holds a slice of the post neurons and all that leads into them.

Processes are started by ``torchrun``, and :mod:`torch.distributed` carries what they exchange: once a step, the spikes.
"""

from __future__ import annotations

from tritonstdp.distributed.checkpoints import load, save
from tritonstdp.distributed.exchange import Exchange, ExchangeError
from tritonstdp.distributed.network import shard_network
from tritonstdp.distributed.slices import Shard, shard

__all__ = ["Exchange", "ExchangeError", "Shard", "load", "save", "shard", "shard_network"]
