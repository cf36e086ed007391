"""Settings for all tests: hypothesis without deadlines (kernels compile on their first call), the same draws each run."""

import pytest
from hypothesis import HealthCheck, settings

import tinynet as tn

settings.register_profile(
    "tinynet",
    deadline=None,
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tinynet")


@pytest.fixture(autouse=True)
def seed():
    """Every test starts from the same random numbers."""
    tn.manual_seed(0)
