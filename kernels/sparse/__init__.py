"""Sparse connections: the stored synapses of a matrix, and never the absent ones."""

from tritonstdp.kernels.protocol import Case


def is_indexed(case: Case) -> bool:
    """Whether what becomes of a synapse between silent neurons depends on which neurons they are."""
    streamed = {*case.formula.rule.eligibility_parameters, "dopamine"}
    return not streamed.isdisjoint((*case.names.pre, *case.names.post))
