"""What a job may change in its process, and what is put back."""

import logging
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch

from pneumo.training.runtime import isolated


def test_nothing_leaks_out_of_a_job() -> None:
    def state() -> tuple[Any, ...]:
        root = logging.getLogger()
        flags = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
        numbers = torch.get_num_threads(), torch.get_default_dtype(), torch.rand(1).item()
        return flags, numbers, random.random(), np.random.rand(), root.level, list(root.handlers)

    for seed in (1, 2):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        expected = state()
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        with pytest.raises(SystemExit), isolated():
            torch.manual_seed(9), random.seed(9), np.random.seed(9)
            torch.set_num_threads(1), torch.set_default_dtype(torch.float64)
            torch.use_deterministic_algorithms(True), torch.set_float32_matmul_precision("medium")
            logging.getLogger().addHandler(logging.NullHandler())
            logging.getLogger().setLevel(1)
            sys.exit(0)
        assert state() == expected
