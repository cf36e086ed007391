"""Settings for all tests: hypothesis without deadlines (kernels compile at their first call), the same draws always.

Tests of small shapes are marked `small`: they also run with NUMBA_DISABLE_JIT=1, every kernel as plain Python, and
with NUMBA_BOUNDSCHECK=1, where reading or writing beside an array raises (see .ci/run).
"""

from pathlib import Path

import numba
import pytest
from hypothesis import HealthCheck, settings

import tinynet as tn

# Commands, of which the first would slow down every module that it imports, and what needs ONNX or PyTorch.
collect_ignore = ["fuzz.py", "kill_points.py", "interop/node_tests.py", "interop/torch_models.py"]

settings.register_profile(
    "tinynet",
    deadline=None,
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tinynet")


SMALL = """kernels/test_convolution kernels/test_depthwise kernels/test_error kernels/test_matmul
    kernels/test_reduction kernels/test_softmax kernels/test_tile kernels/test_weight_strips kernels/test_weight_sum
    kernels/test_winograd kernels/test_winograd_rows
    ops/test_convolution ops/test_layout ops/test_loss ops/test_normalization ops/test_pooling ops/test_reduction
    ops/test_resize nn/test_layers nn/test_module test_special_values test_optim test_settings""".split()
LARGE = ("test_relu_passes_gradients", "test_the_stated_error_holds", "one-", "_large_")  # though they are among those


def pytest_collection_modifyitems(items):
    folder = Path(__file__).parent
    small = {folder / f"{name}.py" for name in SMALL}
    for item in items:
        if item.path in small and not any(part in item.name for part in LARGE):
            item.add_marker("small")


@pytest.fixture(autouse=True)
def same_start():
    """Every test starts from the same random numbers, with one thread: on a busy machine two wait for each other at
    every small kernel. Tests of threads set their own number."""
    tn.manual_seed(0)
    numba.set_num_threads(1)
