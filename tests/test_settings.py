"""Every kernel under numba's settings: plain Python gives what compiled code gives, and no index leaves its array."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from tests import every_kernel

ROOT = Path(__file__).parent.parent
PLAIN = "import sys, numpy as np; from tests import every_kernel; np.savez(sys.argv[1], *every_kernel.work(3))"


def test_every_kernel_runs():
    """With NUMBA_BOUNDSCHECK=1 (see .ci/run), too: an index outside of its array would raise."""
    assert all(np.isfinite(array).all() for array in every_kernel.work(3))
    assert numba.config.DISABLE_JIT or not every_kernel.unused()


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="compares with what is compiled")
def test_every_kernel_gives_the_same_as_plain_python(tmp_path):
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    file = tmp_path / "plain.npz"
    subprocess.run([sys.executable, "-c", PLAIN, file], env=environment, check=True, timeout=300, cwd=ROOT)
    compiled = every_kernel.work(3)
    with np.load(file) as plain:
        assert len(plain.files) == len(compiled)
        for name, array in zip(plain.files, compiled, strict=True):
            np.testing.assert_allclose(plain[name], array, rtol=2e-4, atol=2e-4 * np.abs(array).max())
