"""Ranks get all spikes in few bytes, and those that can't go on together say why and end."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
import torch
import torch.distributed as dist

import tritonstdp as ts
from sharded import on_ranks
from tritonstdp import Dense, Local2d, distributed
from tritonstdp.distributed import Exchange, ExchangeError, shard

TIMEOUT, MARGIN = 2.0, 1.0


def _part(n: int) -> distributed.Shard:
    return shard(lambda start, stop: torch.zeros(1, stop - start), topology=Dense(1, n))


def _bytes_of_spikes(n, rates, dtype, at_once):
    distributed.exchange.AT_ONCE = at_once
    part, draws, sent = _part(n), torch.Generator().manual_seed(0), []
    with Exchange(part, dtype=dtype) as exchange:
        for rate in rates:
            every = (torch.rand(n, generator=draws) < rate).to(dtype) * (1 if dtype is torch.bool else 0.7)
            every = every.to(dtype)
            assert torch.equal(exchange(part.post(every).contiguous()), every)
            sent.append(exchange.sent)
    return part.n_post, sent


@pytest.mark.parametrize("n", [4000, 3, 1])  # where there are fewer neurons than ranks, one has none
def test_a_rank_sends_a_bit_a_neuron_and_a_header(n, tmp_path):
    for own, sent in on_ranks(2, tmp_path, _bytes_of_spikes, n, (0.1, 1.0, 0.0), torch.bool, 2**16):
        assert all(each <= own / 8 + 64 for each in sent)


def test_a_rank_of_many_neurons_sends_a_list_where_few_fire(tmp_path):
    for own, sent in on_ranks(2, tmp_path, _bytes_of_spikes, 40001, (0.001, 0.1, 0.0), torch.bool, 0):
        assert sent[0] < 60 + 4 * 40 and own / 8 <= sent[1] <= own / 8 + 64 and sent[2] == 60


def test_spikes_that_count_with_a_value_are_sent_as_values(tmp_path):
    for own, sent in on_ranks(2, tmp_path, _bytes_of_spikes, 101, (0.1, 0.5), torch.float32, 2**16):
        assert all(each <= 4 * (own + 8) + 60 for each in sent)


def _while_under_way(n, at_once):
    distributed.exchange.AT_ONCE = at_once
    part, draws, given = _part(n), torch.Generator().manual_seed(0), []
    with Exchange(part) as exchange:
        for _ in range(3):
            every = torch.rand(n, generator=draws) < 0.1
            own = part.post(every).clone()
            exchange.send(own)
            own.fill_(True)  # as a loop may that keeps its spikes in one tensor
            with pytest.raises(ValueError, match="call receive"):
                exchange.send(own)
            with pytest.raises(ValueError, match="call receive"):
                exchange.meet()
            given.append(torch.equal(exchange.receive(), every))
        with pytest.raises(ValueError, match="call send"):
            exchange.receive()
        exchange.send(own)
    return given


@pytest.mark.parametrize("at_once", [2**16, 0])
def test_spikes_are_those_that_were_sent_whatever_is_done_while_they_are_under_way(at_once, tmp_path):
    assert on_ranks(3, tmp_path, _while_under_way, 41, at_once) == [[True] * 3] * 3


def test_one_process_sends_to_itself():
    with Exchange(_part(2)) as exchange:
        exchange.send(torch.tensor([True, False]))
        assert exchange.receive().tolist() == [True, False] and exchange.step == 1


@pytest.mark.parametrize("n", [8, 24, 4000])
def test_spikes_are_packed_alike_on_hosts_and_devices(n):
    packing, spikes = distributed.exchange, torch.rand(n) < 0.3
    bits = packing._packed(spikes, n)
    assert torch.equal(bits, packing._packed_on_device(spikes))
    assert torch.equal(packing._unpacked(bits[None], torch.bool), spikes)
    assert torch.equal(packing._unpacked_on_device(bits[None]), spikes)


def _in_rows(topology):
    part, every = (
        shard(torch.zeros(topology.weights_shape), topology=topology),
        torch.arange(topology.post_shape[0]) % 3 == 0,
    )
    with Exchange(part) as exchange:
        return bool(torch.equal(exchange(part.post(every).contiguous()), every))


def test_spikes_of_a_local_group_s_rows_come_back_in_order(tmp_path):
    assert on_ranks(3, tmp_path, _in_rows, Local2d((1, 6, 6), (2, 4, 4), 3)) == [True] * 3


def _step(part, exchange, **changed):
    silent = torch.zeros(part.n_post, dtype=torch.bool)
    settings = {"a_plus": 0.1, "a_minus": 0.1, "backend": "reference"} | changed
    part.update_(
        "stdp", pre_spike=torch.zeros(1, dtype=torch.bool), pre_trace=torch.zeros(1), post_spike=silent,
        post_trace=torch.zeros(part.n_post), **settings,
    )  # fmt: skip
    exchange(silent)


def _with_a_fault(fault):
    rank, distributed.exchange.MARGIN = dist.get_rank(), MARGIN
    torch.manual_seed(rank if fault == "seed" and rank == 1 else 0)
    part, odd_kind = _part(6 + (fault == "network" and rank == 1)), fault == "dtype" and rank == 1
    began, timeout = time.monotonic(), TIMEOUT if fault in ("killed", "hangs") else 60
    with Exchange(part, dtype=torch.float64 if odd_kind else torch.bool, timeout=timeout) as exchange:
        try:
            for step in range(4):
                odd = rank == 1 and step == 2
                if fault == "killed" and odd:
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault == "hangs" and odd:
                    time.sleep(TIMEOUT + MARGIN + 1.5)
                if fault == "raises" and odd:
                    raise KeyError("no such neuron")
                if fault == "finishes" and odd:
                    return "finished"
                if fault == "meets" and odd:
                    exchange.meet()
                changed = {"a_plus": ts.per_post(torch.ones(part.n_post))} if fault == "rule" and odd else {}
                _step(part, exchange, **changed)
        except ExchangeError:
            assert time.monotonic() - began < TIMEOUT + MARGIN + 1 or (fault, rank) == ("hangs", 1)
            raise
    return "done"


SAID = {
    "raises": r"rank 1 has failed in step 2: KeyError: 'no such neuron'",
    "finishes": r"rank 1 finished after 2 steps, and the others go on",
    "rule": r"disagree on the rule \(ranks 0 and 2; rank 1\): call update_",
    "seed": r"disagree on the seed \(ranks 0 and 2; rank 1\): call torch.manual_seed",
    "network": r"disagree on the network \(ranks 0 and 2; rank 1\): give all",
    "dtype": r"disagree on the network \(ranks 0 and 2; rank 1\): give all",
    "meets": r"rank 1 saves, loads or meets in step 2, and the others go on",
    "killed": r"rank 1 did not answer in step 2: killed",
    "hangs": r"rank 1 did not answer in step 2: .*busy for more than the timeout of 2 s",
}


@pytest.mark.parametrize("fault", [*SAID])
def test_the_others_end_with_an_error_that_names_the_rank(fault, tmp_path):
    first, odd, last = on_ranks(3, tmp_path, _with_a_fault, fault, seconds=40)
    for error in (first, last):
        assert isinstance(error, ExchangeError) and re.search(SAID[fault], str(error)), error
    if fault == "raises":
        assert isinstance(odd, KeyError)
    if fault in ("rule", "seed", "network", "dtype", "meets"):
        assert str(odd) == str(first)


def _with_a_death_that_one_sees_a_step_later():
    part, distributed.exchange.MARGIN = _part(6), MARGIN
    silent = torch.zeros(part.n_post, dtype=torch.bool)
    with Exchange(part, timeout=TIMEOUT) as exchange:
        exchange(silent)
        if dist.get_rank() == 1:  # its message is on its way to one of the others alone
            message = exchange._message(0, silent)
            for way, theirs in ((dist.isend, message), (dist.irecv, message.clone())):
                way(theirs, 2, group=exchange._group).wait()
            os.kill(os.getpid(), signal.SIGKILL)
        exchange(silent)
        exchange(silent)


def test_ranks_that_wait_in_different_steps_name_the_one_that_is_missing(tmp_path):
    first, _, last = on_ranks(3, tmp_path, _with_a_death_that_one_sees_a_step_later, seconds=40)
    for error, step in ((first, 1), (last, 2)):
        assert f"rank 1 did not answer in step {step}: killed" in str(error)


def _without_memory_for_the_second_round():
    distributed.exchange.AT_ONCE, distributed.exchange.MARGIN = 0, MARGIN
    part, is_odd = _part(90), dist.get_rank() == 1
    packed, fails = distributed.exchange._packed, []

    def packed_or_not(*given):
        if fails:
            raise MemoryError("no memory")
        return packed(*given)

    distributed.exchange._packed = packed_or_not
    with Exchange(part, timeout=TIMEOUT) as exchange:
        for step in range(3):
            fails += [step] * (is_odd and step == 1)
            exchange(torch.ones(part.n_post, dtype=torch.bool))


def test_what_is_raised_between_two_rounds_is_not_read_as_spikes(tmp_path):
    first, odd, last = on_ranks(3, tmp_path, _without_memory_for_the_second_round, seconds=40)
    assert isinstance(odd, MemoryError)
    for error in (first, last):
        assert isinstance(error, ExchangeError) and "rank 1 did not answer in step 1" in str(error)


def test_a_network_of_one_process_exchanges_nothing():
    with Exchange(_part(3)) as exchange:
        spikes = exchange(torch.tensor([True, False, True]))
    assert spikes.tolist() == [True, False, True] and exchange.sent == 0


@pytest.mark.parametrize(("spikes", "said"), [(torch.zeros(3), "pass dtype="), (torch.zeros(4) > 0, "has (3,) post")])
def test_spikes_that_do_not_fit_are_refused(spikes, said):
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        Exchange(_part(3))(spikes)
