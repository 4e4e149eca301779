"""Set up for every test: Triton's interpreter, one seed, CoNeX."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when kernels are decorated, so before any import of them

import random

import numpy as np
import pytest
import torch
from support import import_conex


@pytest.fixture(autouse=True)
def _seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def conex():
    return import_conex()
