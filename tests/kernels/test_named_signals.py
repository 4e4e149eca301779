"""Rules of any signals and parameters, and parameters of one value a neuron: as the reference, on every backend."""

from dataclasses import replace
from math import inf, nan

import pytest
import torch
from torch.nn.functional import unfold

from rules_of_their_own import POWER, RULES_OF_TESTS, SPIKES_ALONE, TAGGED, TELLING, WEIGHTED
from support import random_sparse, stepped, with_tensors
from tritonstdp import Conv2d, Dense, Local2d, OneToOne
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.problems import make_problem
from tritonstdp.rules import RULES, Formula, hard_bound, istdp, no_bound, rstdp, soft_bound
from tritonstdp.topology import TOPOLOGIES

EVERY_RULE = RULES | RULES_OF_TESTS
CASES = {name: (Formula.of(rule, POWER, soft_bound), {"per_neuron": True}) for name, rule in EVERY_RULE.items()} | {
    "istdp": (Formula.of(istdp, POWER, POWER), {"per_neuron": True, "float_spikes": True}),
    "rstdp": (Formula.of(rstdp, soft_bound, hard_bound), {"per_neuron": True, "dopamine": "pre"}),
    "tagged": (Formula.of(TAGGED, soft_bound, POWER, True), {"dopamine": "post", "float_spikes": True}),
    "weighted": (Formula.of(WEIGHTED, POWER, hard_bound), {"per_neuron": True, "dtype": torch.float64}),
    "spikes_alone": (Formula.of(SPIKES_ALONE, no_bound, POWER, True), {}),
}
"""A formula of each rule, and how its parameters and signals are given."""
GROUPS = {
    "dense": [Dense(37, 50), Dense(1, 7), Dense(5, 0)],
    "one_to_one": [OneToOne(40), OneToOne(2000)],
    "sparse": [random_sparse(40, 30, 0.3), random_sparse(40, 30, 0.3, torch.sparse_csr)],
    "conv2d": [Conv2d((2, 6, 7), (3, 4, 5), (3, 3)), Conv2d((1, 1, 70), (2, 2, 35), (2, 3), (1, 2), (1, 1), 7.5)],
    "local2d": [Local2d((2, 6, 7), (3, 4, 5), (3, 3)), Local2d((1, 1, 70), (2, 2, 35), (2, 3), (1, 2), (1, 1))],
}
NAMED_GROUPS = {f"{name}-{k}": topology for name, kinds in GROUPS.items() for k, topology in enumerate(kinds)}
groups = pytest.mark.parametrize("topology", NAMED_GROUPS.values(), ids=NAMED_GROUPS)


def assert_same(got, expected):
    # each backend sums over positions in an order of its own
    rtol, atol = (2e-6, 1e-6) if got.topology.shares_weights else (0, 0)
    for name, tensor in expected.outputs.items():
        torch.testing.assert_close(got.outputs[name], tensor, rtol=rtol, atol=atol)


@pytest.fixture(autouse=True, scope="module")
def _swift():
    with swift_interpreter():
        yield


@pytest.mark.parametrize(
    ("group", "backend", "case"),
    [
        *((group, "triton", name) for group in NAMED_GROUPS for name in CASES),
        # loops take seconds to compile: of the second groups, triplets alone
        *((group, "cpu", name) for group in NAMED_GROUPS for name in TELLING if group[-1] == "0" or name == "triplet"),
    ],
)
def test_a_step_gives_what_the_reference_gives(group, backend, case):
    topology, (formula, options) = NAMED_GROUPS[group], CASES[case]
    if topology.shares_weights:  # which belong to no neuron
        options = options | {"dopamine": "number"}
    for rate in (0.0, 0.1, 0.6):
        problem = make_problem(formula, topology, rate=rate, **options)
        expected, got = problem.copy(), problem.copy()
        stepped(expected, "reference"), stepped(got, backend)
        assert_same(got, expected)
        assert not got.weights.numel() or not torch.equal(got.weights, problem.weights)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_only_the_term_of_a_silent_neuron_reads_does_not_matter(topology, backend):
    formula, options = CASES["triplet"]
    problem = make_problem(formula, GROUPS[topology][0], **options)
    read = {"pre_spike": ("pre_slow", "a2_minus"), "post_spike": ("post_slow", "a3_plus")}
    expected = problem.copy()
    stepped(expected, backend)
    for value in (nan, inf):
        silent = {
            name: problem.tensors[name].masked_fill(problem.signals[spikes] == 0, value)
            for spikes, names in read.items()
            for name in names
        }
        got = with_tensors(problem.copy(), silent)
        stepped(got, backend)
        assert_same(got, expected)


def pairs_of(topology):
    """The pre and the post neuron of each weight, found independently of the kernels; a neuron of padding is -1.

    Where weights are shared, a last axis runs over positions.
    """
    pre, post = torch.arange(topology.pre_shape[0]), torch.arange(topology.post_shape[0])
    if topology.name == "one_to_one":
        return pre, post
    if topology.name == "dense":
        return pre[:, None].expand(-1, len(post)), post.expand(len(pre), -1)
    if topology.name == "sparse":
        stored = topology.weights_of(torch.arange(1.0, topology.weights_shape[0] + 1)).to_dense()
        pairs = stored.nonzero()
        return tuple(pairs[stored[stored != 0].argsort()].t())
    image, geometry = (pre + 1.0).view(1, *topology.src_shape), {"padding": topology.padding, "stride": topology.stride}
    patches = unfold(image, topology.kernel_size, **geometry)[0].long()
    post = post.view(topology.dst_shape[0], -1)
    if topology.name == "local2d":
        return patches.t() - 1, post[:, :, None]
    return patches.view(*topology.weights_shape[1:], -1) - 1, post[:, None, None, None]


@pytest.mark.parametrize("rule", ["triplet", *RULES_OF_TESTS])
@groups
def test_the_reference_reads_each_value_at_its_neuron(topology, rule):
    """Every pair of neurons as a synapse of its own."""
    if topology.shares_weights and EVERY_RULE[rule].modulated:
        pytest.skip("the eligibility is no sum over positions")
    problem = make_problem(
        Formula.of(EVERY_RULE[rule], POWER), topology, per_neuron=True, rate=0.4, dtype=torch.float64
    )
    pairs = dict(zip(("pre", "post"), torch.broadcast_tensors(*pairs_of(topology)), strict=True))
    shape = pairs["pre"].shape

    def paired(name, tensor):
        if name in problem.outputs:
            return tensor.reshape(*tensor.shape, *[1] * (len(shape) - tensor.dim())).expand(shape).reshape(-1).clone()
        given = problem.parameters.get(name)
        side = given.side if given is not None else name.partition("_")[0]
        return torch.cat([tensor, tensor.new_zeros(1)])[pairs[side].flatten()]

    alone = with_tensors(problem, {name: paired(name, tensor) for name, tensor in problem.tensors.items()})
    alone = replace(alone, topology=OneToOne(pairs["pre"].numel()))
    stepped(alone, "reference")
    got = problem.copy()
    stepped(got, "reference")
    for name, tensor in got.outputs.items():
        of_pairs, before = alone.outputs[name].view(shape), problem.outputs[name]
        if topology.shares_weights:
            of_pairs = before + (of_pairs - before[..., None]).sum(-1) / topology.weight_divisor
        torch.testing.assert_close(tensor, of_pairs)
        assert not tensor.numel() or not torch.equal(tensor, before)
