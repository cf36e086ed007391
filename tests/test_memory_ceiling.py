"""Out of memory: training raises MemoryError, the checkpoint before is whole, and with memory it goes on."""

import subprocess
import sys

import numpy as np
import pytest

import tinynet as tn
from tinynet import data, nn, optim
from tinynet.training import fit

pytest.importorskip("resource", reason="limits are set by Unix's setrlimit")

SPARE = 48 << 20                # bytes that training may take beyond what it has after its first epoch


class Pictures:
    """Small ones in the first epoch, then such that a step takes more memory than there is."""

    def __init__(self):
        self.size = 16

    def __len__(self):
        return 16

    def __getitem__(self, i):
        image = np.full((self.size, self.size, 3), i / 16, np.float32)
        return image, image[..., :1]


def train(out, limited, resume=False):
    tn.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 1, 5, padding=2))
    optimizer, pictures = optim.Adam(model.parameters()), Pictures()

    def after_epoch(epoch, model, row):
        if limited:
            pictures.size = 256
            _limit_memory()

    fit(model, optimizer, data.DataLoader(pictures, 8), lambda model, batch: tn.mse_loss(model(batch[0]), batch[1]),
        epochs=2, out=out, after_epoch=after_epoch, resume=resume)


def _limit_memory():
    import resource

    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_raises_and_the_checkpoint_is_whole(tmp_path):
    code = f"from tests.test_memory_ceiling import train; train({str(tmp_path / 'limited')!r}, True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "MemoryError" in done.stderr, done.stderr
    train(tmp_path / "limited", False, resume=True)
    train(tmp_path / "free", False)
    limited, free = (tn.load(tmp_path / name / "checkpoint.safetensors") for name in ("limited", "free"))
    assert limited.keys() == free.keys()
    for name in free:
        np.testing.assert_array_equal(limited[name], free[name])
