"""The package as a whole: its public names, imports without the extras, and every kernel as plain Python."""

import configparser
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import data, metrics, nn, optim

NAMES = {
    tn: """Tensor grad no_grad detect_anomaly gradcheck gradgradcheck manual_seed save load summary graph profile
        exp log sqrt abs maximum minimum where clip matmul sum mean var max min logsumexp
        reshape transpose pad concatenate stack flatten broadcast_to
        relu leaky_relu sigmoid tanh softplus gelu silu softmax log_softmax dropout
        conv2d conv_transpose2d max_pool2d avg_pool2d resize batch_norm group_norm layer_norm
        cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss dice_loss giou_loss""",
    nn: """Module Parameter Sequential Conv2d ConvTranspose2d Dense Flatten ReLU LeakyReLU Sigmoid Tanh GELU MaxPool2d
        AvgPool2d Upsample BatchNorm2d GroupNorm LayerNorm Dropout Residual""",
    optim: "SGD Adam AdamW RMSProp StepLR CosineLR OneCycleLR clip_grad_norm",
    data: "DataLoader CamVid Scenes Augmented Flip Crop Scale Brightness Contrast",
    metrics: "ConfusionMatrix psnr box_iou accuracy",
}


@pytest.mark.parametrize("module", NAMES, ids=lambda m: m.__name__)
def test_public_names_are_there_and_documented(module):
    for name in NAMES[module].split():
        assert getattr(module, name).__doc__, f"{module.__name__}.{name}"


def test_the_version_is_the_same_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+", tn.__version__)
    root = Path(tn.__file__).parent.parent
    assert re.search(r"^## \[(.+?)\]", (root / "CHANGELOG.md").read_text(), re.M)[1] == tn.__version__
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg")
    assert settings["metadata"]["version"] == "attr: tinynet.__version__"           # what comes of it: test_wheel


def python(program, **environment):
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_extras_are_not_needed_to_import():
    python("""
import sys
for extra in ("PIL", "matplotlib", "tqdm", "torch", "pytest", "hypothesis", "scipy"):
    sys.modules[extra] = None          # importing it now raises ImportError
import tinynet
from tinynet import data, metrics, nn, optim, training
data.Scenes(1, size=32)[0]
""")


STEP = """
import json
import numpy as np
import tinynet as tn
from tinynet import nn, optim

tn.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(2, 4), nn.GELU(),
    nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1), nn.Upsample(2, mode="bilinear"), nn.AvgPool2d(2),
    nn.Conv2d(4, 3, 1),
)
optimizer = optim.Adam(model.parameters(), lr=0.01)
images = np.random.default_rng(0).random((2, 6, 8, 3), dtype=np.float32)
losses = []
for _ in range(2):
    optimizer.zero_grad()
    loss = tn.cross_entropy(model(tn.Tensor(images)), (images.argmax(-1)))
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
losses.append(tn.matmul(images[0, 0].T, images[0, 0]).sum().item())
"""


def test_every_kernel_runs_as_plain_python_too():
    plain = json.loads(python(STEP + "print(json.dumps(losses))", NUMBA_DISABLE_JIT="1"))
    names = {}
    exec(STEP, names)
    np.testing.assert_allclose(plain, names["losses"], rtol=1e-4)


README = Path(__file__).parent.parent / "README.md"


def test_what_readme_points_to_is_there():
    text = README.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 40
    assert [link for link in links if not (README.parent / link).exists()] == []
    modules = set(re.findall(r"python -m ((?:tests|benchmarks|examples)\.\w+)", text))
    assert len(modules) > 5
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
