"""Threads and processes: eight at once, forks, loaders that die; each in a process of its own, under a time limit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import pytest

ROOT = Path(__file__).parent.parent
LAYERS = pytest.mark.parametrize("layer", ["omp", "workqueue"])
LIMIT = 300  # seconds; what takes that long hangs

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="without compiling there are no threads to meet")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

START = """
import faulthandler, multiprocessing, os, select, signal, sys, threading, warnings
import numpy as np
import tinynet as tn
from tests import every_kernel

faulthandler.dump_traceback_later(240, exit=True)                 # before LIMIT: where every thread hangs
warnings.simplefilter("ignore", DeprecationWarning)               # of forks beside threads
x = np.random.default_rng(0).random((40, 50)).astype(np.float32)  # a product of these is a kernel's work

def layer_is_missing():
    try:
        tn.matmul(x, x.T)
    except ValueError:                                            # numba: no such threading layer
        print("missing")
        return True

def in_child(function):
    'What a forked child prints, and how it ended; one that hangs is killed after a minute.'
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, str(function()).encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        if not select.select([pipe], [], [], 60)[0]:
            os.kill(child, signal.SIGKILL)
        said = pipe.read()
    return said, os.waitpid(child, 0)[1]
"""


def run(program, layer="default"):
    """What the program prints, after START, under this threading layer with two threads."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", START + program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("missing"):
        pytest.skip(f"the threading layer {layer} is not installed")
    return done.stdout.strip()


@LAYERS
def test_eight_threads_call_every_kernel_at_once(layer):
    """Each thread has data of its own, and gets the bits that it gets alone."""
    program = """
if layer_is_missing(): sys.exit()
expected = [every_kernel.work(seed) for seed in range(8)]
print(every_kernel.unused())
sys.setswitchinterval(1e-5)
start, right = threading.Barrier(8), []

def work(seed):
    start.wait()
    right.extend(every_kernel.same(every_kernel.work(seed), expected[seed]) for _ in range(2))

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(right), all(right))
"""
    assert run(program, layer).splitlines() == ["[]", "16 True"]


@needs_fork
@LAYERS
def test_a_child_forked_after_use_works_or_raises(layer):
    program = """
if layer_is_missing(): sys.exit()
expected = tn.matmul(x, x.T).numpy()
print(*in_child(lambda: np.array_equal(tn.matmul(x, x.T).numpy(), expected)))
print(np.array_equal(tn.matmul(x, x.T).numpy(), expected))        # the parent goes on
"""
    child, parent = run(program, layer).splitlines()
    assert parent == "True"
    if layer == "workqueue":
        assert child == "True 0"
    else:
        assert re.match(r"RuntimeError: \w+: this process was forked from one that had run kernels", child)
        assert "spawn" in child and child.endswith(" 0")


@needs_fork
@LAYERS
def test_a_child_forked_before_use_works(layer):
    program = """
told = in_child(lambda: 'missing' if layer_is_missing() else tn.matmul(x, x.T).shape)
print(*told)
"""
    assert run(program, layer) == "(40, 40) 0"


@needs_fork
@pytest.mark.parametrize("layer, child", [("omp", "RuntimeError"), ("workqueue", "(40, 40)")])
def test_children_forked_while_threads_are_at_work_work_or_raise(layer, child):
    program = """
if layer_is_missing(): sys.exit()
every_kernel.work(0)
stop = threading.Event()

def work(seed):
    while not stop.is_set():
        every_kernel.work(seed)

def child():
    leaf = tn.Tensor(x, requires_grad=True)
    tn.dropout(leaf * leaf, 0.5).sum().backward()                 # takes the locks of guard and random
    return tn.matmul(x, x.T).shape

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
for thread in threads: thread.start()
told = [in_child(child) for _ in range(10)]
stop.set()
for thread in threads: thread.join()
print(*{(said.split(":")[0], status) for said, status in told})
"""
    assert run(program, layer) == str((child, 0))


@needs_fork
def test_a_pool_of_forked_processes_raises_in_place_of_waiting_for_ever():
    program = """
if layer_is_missing(): sys.exit()

def task(i):
    return tn.matmul(x, x.T).shape

with multiprocessing.get_context("fork").Pool(2) as pool:
    try:
        pool.map(task, range(4))
    except RuntimeError as error:
        print("raised", "spawn" in str(error))
"""
    assert run(program, "omp") == "raised True"


LOADER = """
import time, traceback
from tinynet.data import DataLoader

class Numbers:
    def __init__(self, trouble=None):
        self.trouble = trouble

    def __len__(self):
        return 40

    def __getitem__(self, i):
        if i == 5 and self.trouble:
            self.trouble()
        return (np.full(3, i),)

def raising():
    raise OSError("sample 5 is on a broken disk")
"""


def test_a_worker_that_raises_is_told_at_once_though_another_is_busy():
    """Seconds before the other one is done with its sample."""
    program = LOADER + """
class Busy(Numbers):
    def __getitem__(self, i):
        if i == 6: time.sleep(20)
        if i == 5: time.sleep(0.2)
        return super().__getitem__(i)

start = time.perf_counter()
try:
    for batch in DataLoader(Busy(raising), 1, workers=2): pass
except OSError as error:
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    print(error, "raising" in names, time.perf_counter() - start < 15)
sys.stdout.flush()
os._exit(0)                                                       # Python would wait for the busy thread
"""
    assert run(program) == "sample 5 is on a broken disk True True"


@pytest.mark.parametrize("trouble, said", [
    ("sys.exit", "RuntimeError DataLoader: the dataset raised SystemExit in a worker SystemExit"),
    ("iter([]).__next__", "RuntimeError generator raised StopIteration StopIteration"),
])
def test_a_worker_that_ends_in_an_odd_way_is_told(trouble, said):
    program = LOADER + f"""
try:
    for batch in DataLoader(Numbers({trouble}), 2, workers=2): pass
except BaseException as error:
    print(type(error).__name__, error, type(error.__cause__).__name__)
"""
    assert run(program) == said


@needs_fork
def test_a_loader_whose_process_is_forked_amid_an_epoch_raises_there():
    program = LOADER + """
batches = DataLoader(Numbers(), 2, workers=2).batches(0)
next(batches)
print(*in_child(lambda: sum(1 for _ in batches)))
print(sum(1 for _ in batches), *in_child(lambda: sum(1 for _ in DataLoader(Numbers(), 2, workers=2))))
"""
    child, rest = run(program).splitlines()
    assert child.startswith("RuntimeError: DataLoader: this process was forked in the middle of an epoch")
    assert rest == "19 20 0"
