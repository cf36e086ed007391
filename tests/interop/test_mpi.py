"""Several ranks are as good as one with the whole batch; they overlap, fail and stop together (mpi_program.py)."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tests.interop import mpi_program
from tinynet import autograd, team
from tinynet.checkpoint import read_description
from tinynet.interop import mpi
from tinynet.safetensors import load

pytest.importorskip("mpi4py")
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec")

BOUND = {"float32": 1e-6, "float64": 2e-15}  # of the largest value in an array, after 9 steps


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
ENVIRONMENT["OMPI_MCA_mpi_yield_when_idle"] = "1"  # Open MPI: the ranks may share a core here


def command(ranks, what, folder):
    version = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True).stdout
    is_mpich = "HYDRA" in version
    options = [] if is_mpich else ["--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]
    folder.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "tests.interop.mpi_program", what, str(folder)]
    return [MPIEXEC, *options, "-n", str(ranks), *program]


def mpiexec(ranks, what, folder):
    """The finished process."""
    return subprocess.run(command(ranks, what, folder), capture_output=True, text=True, timeout=300, env=ENVIRONMENT,
                          cwd=Path(__file__).parents[2])


def kept(folder, name, rank):
    with np.load(folder / f"{name}-rank{rank}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: (folder, ranks)} of a run alone, two with 2 ranks, and one with 3."""
    base = tmp_path_factory.mktemp("mpi")
    runs = {"alone": (base / "alone", 1)}
    for name, ranks in (("two", 2), ("again", 2), ("three", 3)):
        runs[name] = base / name, ranks
        done = mpiexec(ranks, "equality", base / name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch 1/3") == 4        # one rank prints, once for each case
        (threads,) = re.findall(r"threads (\d+)", done.stdout)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        assert int(threads) == max(1, cores // ranks)
    (base / "alone").mkdir()
    for dtype, norm in mpi_program.CASES:
        model, history = mpi_program.train(base / "alone" / "out", dtype, norm)
        losses = np.array([row["loss"] for row in history])
        mpi_program.keep(base / "alone", f"{dtype}-{norm}", {**model.state_dict(), "losses": losses})
    return runs


@pytest.mark.parametrize("run", ["two", "three"])
@pytest.mark.parametrize("dtype, norm", mpi_program.CASES)
def test_ranks_learn_what_one_does(runs, run, dtype, norm):
    one = kept(runs["alone"][0], f"{dtype}-{norm}", 0)
    many = kept(runs[run][0], f"{dtype}-{norm}", 0)
    assert one.keys() == many.keys() and len(one) == (10 if norm else 7)
    for name, array in one.items():
        assert array.dtype == many[name].dtype
        np.testing.assert_allclose(many[name], array, rtol=0, atol=BOUND[dtype] * np.abs(array).max(), err_msg=name)


@pytest.mark.parametrize("dtype, norm", mpi_program.CASES)
def test_all_ranks_have_the_same_bits_in_every_run(runs, dtype, norm):
    first = kept(runs["two"][0], f"{dtype}-{norm}", 0)
    for run, rank in (("two", 1), ("again", 0), ("again", 1)):
        other = kept(runs[run][0], f"{dtype}-{norm}", rank)
        for name in first:
            np.testing.assert_array_equal(first[name], other[name], err_msg=f"{name}, {run}, rank {rank}")


def test_one_rank_writes_and_evaluates(runs):
    folder, _ = runs["two"]
    rows = (folder / "float32-True" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0] == "epoch,step,loss,lr,seen_by"
    assert all(row.endswith(",0.0") for row in rows[1:])
    assert read_description(folder / "float32-True" / "checkpoint.safetensors")["progress"]["samples"] == 11


@pytest.mark.parametrize("run", ["two", "three"])
def test_synchronised_batch_norm_is_that_of_the_whole_batch(runs, run):
    folder, ranks = runs[run]
    parts = [kept(folder, "normalised", rank) for rank in range(ranks)]
    x, gy, weight, bias = (tn.Tensor(array, requires_grad=True) for array in mpi_program.uneven_batch())
    mean, var = np.zeros(4), np.ones(4)
    y = tn.batch_norm(x, weight, bias, mean, var)
    y.backward(gy.detach())
    expected = {"y": y, "gx": x.grad, "gw": weight.grad, "gb": bias.grad}
    for name, array in expected.items():
        joined = np.concatenate if name in ("y", "gx") else sum
        found = joined([part[name] for part in parts])
        np.testing.assert_allclose(found, array.numpy(), rtol=1e-12, atol=1e-13, err_msg=name)
    for part in parts:
        np.testing.assert_allclose(part["running_mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(part["running_var"], var, rtol=1e-12)


def test_sums_begin_while_the_backward_pass_goes_on(runs):
    for rank in (0, 1):
        events = kept(runs["two"][0], "overlap", rank)["events"].tolist()
        end = events.index("backward ended")
        posts = [i for i, event in enumerate(events) if event == "post"]
        assert len(posts) == 8 and posts[5] < end < posts[7]     # the last is of a layer that gets no gradient
        assert events[posts[0]:end].count("MatMul") >= 9         # of 11 in a backward pass of 6 layers


def test_dropout_differs_between_ranks_and_comes_again_after_a_stop(tmp_path):
    done = mpiexec(2, "dropout", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Stopped in epoch 2 after batch 2 of 3" in done.stdout
    first, second = (kept(tmp_path, "dropout", rank) for rank in (0, 1))
    assert (first["mask"] != second["mask"]).any()
    for name, array in first.items():
        if name.startswith("whole.") and "running" not in name:
            for resumed in (first, second):
                np.testing.assert_array_equal(array, resumed[name.replace("whole", "resumed")], err_msg=name)


def test_a_rank_that_fails_ends_all_and_leaves_the_checkpoint(tmp_path):
    done = mpiexec(2, "dying", tmp_path)
    assert time.time() - float((tmp_path / "died").read_text()) < 10
    assert done.returncode != 0
    assert re.search(r"rank 1 of 2: Traceback .*RuntimeError: the disk is on fire", done.stderr, re.DOTALL)
    progress = read_description(tmp_path / "checkpoint.safetensors")["progress"]
    assert progress["epoch"] == 1 and progress["batch"] == 3
    assert all(np.isfinite(array).all() for array in load(tmp_path / "checkpoint.safetensors").values())


def test_a_rank_that_gives_up_says_why_and_ends_all(tmp_path):
    done = mpiexec(2, "leaving", tmp_path)
    assert done.returncode != 0
    assert "rank 1 of 2: ValueError: no such data\n" in done.stderr


def test_a_killed_rank_ends_all(tmp_path):
    with subprocess.Popen(command(2, "forever", tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          env=ENVIRONMENT, cwd=Path(__file__).parents[2]) as process:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
            assert process.poll() is None
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert process.wait(timeout=20) != 0
    assert load(tmp_path / "checkpoint.safetensors")


def test_without_mpiexec_there_is_nothing_to_do(monkeypatch):
    for name in mpi.SIZES:
        monkeypatch.delenv(name, raising=False)
    with mpi.group() as ranks:
        assert ranks is team.ALONE and autograd.running.landed is None


def test_without_mpi4py_the_extra_is_named(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=re.escape("tinynet[mpi]")), mpi.group():
        pass


def test_a_gradient_from_before_is_refused():
    parameter = tn.Tensor([1.0], requires_grad=True)
    parameter.grad = tn.Tensor([math.pi])
    with pytest.raises(ValueError, match="zero_grad"):
        mpi.Ranks.backward(None, parameter.sum(), 0.5, [parameter])
