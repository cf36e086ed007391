"""The package as it is installed: the wheel has all of tinynet and nothing else, and works far from the sources."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import tinynet as tn

ROOT = Path(tn.__file__).parent.parent
STEP = """
import numpy as np, tinynet as tn
from tinynet import data, nn, optim
dense = nn.Dense(3, 2)
optimizer = optim.SGD(dense.parameters(), lr=0.1)
for images, labels in data.DataLoader([(np.ones(3, np.float32), 1)] * 4, batch_size=4):
    tn.cross_entropy(dense(tn.Tensor(images)), labels).backward()
    optimizer.step()
print(tn.__version__, tn.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built offline from a copy, for building leaves things behind."""
    try:                        # by their metadata, for importing setuptools replaces distutils, which others may use
        metadata.version("pip")
        if int(metadata.version("setuptools").partition(".")[0]) < 71:
            metadata.version("wheel")
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist"))
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                           "--no-index", "--wheel-dir", str(folder), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    assert wheel.name == f"tinynet-{tn.__version__}-py3-none-any.whl"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tinynet").rglob("*.py")}
    assert names == sources | {"tinynet/py.typed"}


def test_it_works_from_another_folder(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    done = subprocess.run([sys.executable, "-c", STEP], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(tmp_path / "site")})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [tn.__version__, str(tmp_path / "site" / "tinynet" / "__init__.py")]
