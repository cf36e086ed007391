"""Settings for all tests: hypothesis without deadlines (kernels compile at their first call), the same draws always."""

import numba
import pytest
from hypothesis import HealthCheck, settings

import tinynet as tn

collect_ignore = ["fuzz.py", "kill_points.py"]      # commands; the first would slow down every module that it imports

settings.register_profile(
    "tinynet",
    deadline=None,
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tinynet")


@pytest.fixture(autouse=True)
def same_start():
    """Every test starts from the same random numbers, with one thread: on a busy machine two wait for each other at
    every small kernel. Tests of threads set their own number."""
    tn.manual_seed(0)
    numba.set_num_threads(1)
