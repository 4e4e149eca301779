"""Set up for every test: Triton's interpreter, one seed, CoNeX."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when kernels are decorated, so before any import of them

import random

import numpy as np
import pytest
import torch

from support import import_conex

torch.set_num_threads(1)  # shapes are small, and a thread that waits for work spins on a core that others need


@pytest.fixture(autouse=True)
def _seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def conex():
    return import_conex()
