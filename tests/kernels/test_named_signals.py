"""Rules of any signals and parameters, and parameters of one value a neuron: as the reference, on every backend."""

import pytest
import torch

from rules_of_their_own import POWER, RULES_OF_TESTS, SPIKES_ALONE, TAGGED, TRIPLET, WEIGHTED
from support import stepped
from tritonstdp import Conv2d, Dense, Local2d, OneToOne
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.problems import make_problem, random_sparse
from tritonstdp.rules import Formula, hard_bound, istdp, no_bound, rstdp, soft_bound, stdp
from tritonstdp.topology import TOPOLOGIES

CASES = {
    "triplet": (Formula.of(TRIPLET, POWER, soft_bound), {"per_neuron": True}),
    "tagged": (Formula.of(TAGGED, soft_bound, POWER, True), {"dopamine": "post", "float_spikes": True}),
    "weighted": (Formula.of(WEIGHTED, POWER, hard_bound), {"per_neuron": True, "dtype": torch.float64}),
    "spikes_alone": (Formula.of(SPIKES_ALONE, no_bound, POWER, True), {}),
    "stdp": (Formula.of(stdp, soft_bound, POWER), {"per_neuron": True}),
    "istdp": (Formula.of(istdp, POWER, POWER), {"per_neuron": True, "float_spikes": True}),
    "rstdp": (Formula.of(rstdp, soft_bound, hard_bound), {"per_neuron": True, "dopamine": "pre"}),
}
"""A formula, and how its parameters and signals are given."""
GROUPS = {
    "dense": [Dense(37, 50), Dense(1, 7), Dense(5, 0)],
    "one_to_one": [OneToOne(40), OneToOne(2000)],
    "sparse": [random_sparse(40, 30, 0.3), random_sparse(40, 30, 0.3, torch.sparse_csr)],
    "conv2d": [Conv2d((2, 6, 7), (3, 4, 5), (3, 3)), Conv2d((1, 1, 70), (2, 2, 35), (2, 3), (1, 2), (1, 1), 7.5)],
    "local2d": [Local2d((2, 6, 7), (3, 4, 5), (3, 3)), Local2d((1, 1, 70), (2, 2, 35), (2, 3), (1, 2), (1, 1))],
}


@pytest.fixture(autouse=True, scope="module")
def _swift():
    with swift_interpreter():
        yield


def test_every_rule_has_a_case():
    assert {"stdp", "istdp", "rstdp", *RULES_OF_TESTS} == set(CASES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_step_gives_what_the_reference_gives(topology, backend, case):
    formula, options = CASES[case]
    summed = topology == "conv2d"  # in another order, and its weights belong to no neuron
    options = options | {"dopamine": "number"} if summed else options
    tolerance = 2e-6 if summed else 0
    for group in GROUPS[topology]:
        for rate in (0.0, 0.1, 0.6):
            problem = make_problem(formula, group, rate=rate, **options)
            expected, got = problem.copy(), problem.copy()
            stepped(expected, "reference"), stepped(got, backend)
            for name, tensor in got.outputs.items():
                torch.testing.assert_close(tensor, expected.outputs[name], rtol=tolerance, atol=tolerance / 2)
            assert group.weights_shape[-1] == 0 or not torch.equal(got.weights, problem.weights)
