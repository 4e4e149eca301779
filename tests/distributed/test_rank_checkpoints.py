"""What some ranks have written, others go on with; and a kill at any moment leaves a checkpoint that loads."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import torch
import torch.distributed as dist

from sharded import on_ranks
from tritonstdp import Conv2d, Dense, Local2d, OneToOne, Sparse
from tritonstdp.distributed import Exchange, ExchangeError, checkpoints, load, save, shard

GROUPS = [
    Dense(5, 7), OneToOne(7), Sparse.random(9, 7, 30), Sparse.random(9, 7, 30, torch.sparse_csr),
    Conv2d((2, 5, 5), (2, 3, 3), 3), Local2d((2, 7, 6), (3, 4, 7), (3, 2), (2, 1), (1, 1)),
]  # fmt: skip


def _states(topology):
    values = torch.rand(topology.weights_shape, generator=torch.Generator().manual_seed(3))
    part = shard(values, topology=topology)
    every_pre, every_post = (torch.arange(1.0, 1 + n) for (n,) in (topology.pre_shape, topology.post_shape))
    states = {"synapses": {"c": part.synapses(1 - values)}, "pre": {"x": part.pre(every_pre)}}
    return part, states | {"post": {"y": part.post(every_post).clone()}}


def _written(topologies, folder):
    torch.rand(5)
    for k, topology in enumerate(topologies):
        part, states = _states(topology)
        with Exchange(part, timeout=20) as exchange:
            exchange(torch.zeros(part.n_post, dtype=torch.bool))
            for _ in range(2):
                save(folder / str(k), exchange, part, **states)
    return torch.rand(3)


def _read_back(topologies, folder):
    same = []
    for k, topology in enumerate(topologies):
        part, wanted = _states(topology)
        expected, found = (
            part.weights.clone(),
            {kind: {n: t.clone().zero_() for n, t in s.items()} for kind, s in wanted.items()},
        )
        part.weights.zero_()
        with Exchange(part, timeout=20) as exchange:
            load(folder / str(k), exchange, part, **found)
            same.append(torch.equal(part.weights, expected) and exchange.step == 1)
        same += [torch.equal(found[kind][name], value) for kind, s in wanted.items() for name, value in s.items()]
    assert all(same)
    return torch.rand(3)


@pytest.mark.parametrize(("writers", "readers"), [(3, 2), (2, 4)])
def test_other_ranks_go_on_with_what_some_have_written(writers, readers, tmp_path):
    for name in ("written", "read", "files"):
        (tmp_path / name).mkdir()
    drawn, *others = on_ranks(writers, tmp_path / "written", _written, GROUPS, tmp_path / "files")
    others += on_ranks(readers, tmp_path / "read", _read_back, GROUPS, tmp_path / "files")
    others.append(_read_back(GROUPS, tmp_path / "files"))
    assert all(torch.equal(other, drawn) for other in others), "and go on with the same random numbers"
    assert len([*(tmp_path / "files" / "0").iterdir()]) == writers + 1, "older files are removed"


def _killed_while_writing(folder, when):
    sys.modules[Exchange.__module__].MARGIN = 1.0
    part, states = _states(Dense(5, 7))
    with Exchange(part, timeout=3.0) as exchange:
        save(folder / "0", exchange, part, **states)
        part.weights.fill_(9)
        if dist.get_rank() == 0:
            replaced = checkpoints.replace_whole if when == "at the manifest" else checkpoints._write
            setattr(checkpoints, replaced.__name__, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        exchange.step = 1
        save(folder / "0", exchange, part, **states)


@pytest.mark.parametrize("when", ["at the manifest", "at its file"])
def test_a_kill_leaves_the_last_checkpoint_whole(when, tmp_path):
    _, error = on_ranks(2, tmp_path, _killed_while_writing, tmp_path, when)
    assert isinstance(error, ExchangeError) and "rank 0 did not answer" in str(error)
    part, states = _states(Dense(5, 7))
    expected = part.weights.clone()
    load(tmp_path / "0", Exchange(part), part, **states)
    assert torch.equal(part.weights, expected)


def test_a_checkpoint_of_another_group_is_refused_and_nothing_changed(tmp_path):
    part = shard(torch.rand(5, 7).to_sparse_csr())
    before = part.weights.clone()
    save(tmp_path, Exchange(part), part)
    part.weights.copy_(before.add_(1))
    other = shard((torch.rand(5, 7) > 0.5).double().to_sparse_csr())
    with pytest.raises(ValueError, match=r"is torch.float64, and F32"):
        load(tmp_path, Exchange(other), other)
    other = shard((torch.rand(5, 7) > 0.5).float().to_sparse_csr())
    with pytest.raises(ValueError, match="between other neurons"):
        load(tmp_path, Exchange(other), other)
    with pytest.raises(ValueError, match=r"holds no pre\.x"):
        load(tmp_path, Exchange(part), part, pre={"x": torch.zeros(5)})
    assert torch.equal(part.weights, before)
