"""The compiled kernels' cache, their announcements and their launches, each in a process of its own."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinynet.kernels import jit, parts

CALLEE = "from tinynet.kernels.jit import inner\n@inner\ndef change(v):\n    return v + {number}\n"
CALLER = """
import numpy as np
from tinynet.kernels.callee import change
from tinynet.kernels.jit import inner, kernel, prange

@kernel
def change_all(a):
    for i in prange(len(a)):
        a[i] = change(a[i])

@kernel
def double_all(a):
    for i in prange(len(a)):
        pair = np.empty(2, a.dtype)     # numba tries all that this may mean, and raises inside for what doesn't fit
        pair[:] = a[i]
        a[i] = pair.sum()
"""
SETUP = """
import numpy as np
from tinynet.kernels.caller import change_all, double_all
a = np.zeros(3, np.float32)
"""


@pytest.fixture
def package(tmp_path):
    """A package of the same name with kernels of its own."""
    kernels = tmp_path / "package" / "tinynet" / "kernels"
    kernels.mkdir(parents=True)
    (kernels.parent / "__init__.py").touch()
    (kernels / "__init__.py").touch()
    shutil.copy(jit.__file__, kernels)
    shutil.copy(parts.__file__, kernels)
    (kernels / "callee.py").write_text(CALLEE.format(number=1))
    (kernels / "caller.py").write_text(CALLER)
    return kernels


def start(package, code, cache, **environment):
    """A process that runs `code` with that package"""
    root = package.parents[1]
    settings = {"NUMBA_DISABLE_JIT": "0", "NUMBA_BOUNDSCHECK": "0"}            # whatever the tests run under
    environment = {**os.environ, **settings, "PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(cache), **environment}
    command = [sys.executable, "-c", SETUP + code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=root)


def run(package, code, cache, **environment):
    """Its (stdout, stderr)"""
    return finish(start(package, code, cache, **environment))


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.strip(), err


CALL = "change_all(a); change_all(a); print(a[0])"


def test_announced_once_and_cached(package, tmp_path):
    out, err = run(package, CALL, tmp_path / "cache")
    assert out == "2.0"
    assert err.count("tinynet: compiling") == 1
    assert err.startswith("tinynet: compiling change_all for float32 ... ") and err.endswith(" s\n")
    assert run(package, CALL, tmp_path / "cache") == ("2.0", "")


def test_edit_of_a_callee_in_another_file_is_seen(package, tmp_path):
    run(package, CALL, tmp_path / "cache")
    (package / "callee.py").write_text(CALLEE.format(number=7))
    out, err = run(package, CALL, tmp_path / "cache")
    assert out == "14.0"
    assert "compiling change_all" in err


def test_other_settings_are_other_kernels(package, tmp_path):
    run(package, CALL, tmp_path / "cache")
    assert "compiling change_all" in run(package, CALL, tmp_path / "cache", NUMBA_BOUNDSCHECK="1")[1]


def test_no_place_to_write_warns_once_and_works(package, tmp_path):
    (tmp_path / "file").touch()
    out, err = run(package, "double_all(a); " + CALL, tmp_path / "file" / "cache")
    assert out == "2.0"
    assert err.count("RuntimeWarning: tinynet: compiled kernels cannot be kept on disk") == 1
    assert err.count("tinynet: compiling") == 2


def test_folder_that_disappears_warns_and_works(package, tmp_path):
    cache = tmp_path / "cache"
    vanish = f"import shutil; shutil.rmtree({str(cache)!r}); open({str(cache)!r}, 'w').close()"
    out, err = run(package, f"double_all(a)\n{vanish}\n{CALL}", cache)
    assert out == "2.0"
    assert err.count("RuntimeWarning") == 1


def test_damaged_files_are_compiled_again(package, tmp_path):
    run(package, CALL, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("*.nb?"):
        path.write_bytes(b"damaged")
    out, err = run(package, CALL, tmp_path / "cache")
    assert out == "2.0"
    assert "compiling change_all" in err


BOTH = "b = np.zeros(3); change_all(a); change_all(b); change_all(b); print(a.tolist(), b.tolist())"
BOTH_OUT = "[1.0, 1.0, 1.0] [2.0, 2.0, 2.0]"


def test_two_processes_fill_one_cache(package, tmp_path):
    processes = [start(package, BOTH, tmp_path / "cache") for _ in range(2)]
    for process in processes:
        assert finish(process)[0] == BOTH_OUT
    assert run(package, BOTH, tmp_path / "cache") == (BOTH_OUT, "")


def test_files_that_two_processes_gave_one_name_are_told_apart(package, tmp_path):
    """numba numbers files: two processes with two dtypes may both write number 1, the index of one, the code of the
    other. Code for another dtype would read and write beside its arrays."""
    run(package, BOTH, tmp_path / "cache")
    one, two = sorted((tmp_path / "cache").rglob("*change_all*.nbc"))
    code = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(code)
    out, err = run(package, BOTH, tmp_path / "cache")
    assert out == BOTH_OUT and err.count("tinynet: compiling change_all") == 2
    assert run(package, BOTH, tmp_path / "cache") == (BOTH_OUT, "")


def test_an_install_that_cannot_be_written_is_not_written(package, tmp_path):
    for folder in (package, package.parent):
        (folder / "__pycache__").touch()                         # a file: even root can put nothing into it
    before = sorted(package.parent.rglob("*"))
    assert run(package, CALL, tmp_path / "cache")[0] == "2.0"
    assert run(package, CALL, tmp_path / "cache") == ("2.0", "")
    assert sorted(package.parent.rglob("*")) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a place where nobody can make a folder, root neither")
def test_a_home_that_is_not_there_warns_once_and_works(package):
    out, err = run(package, CALL, "", HOME="/proc/nobody", XDG_CACHE_HOME="")
    assert out == "2.0"
    assert err.count("RuntimeWarning: tinynet: compiled kernels cannot be kept on disk") == 1


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    """expanduser gives "~/.cache" back for a user that the system doesn't know: no folder of that name is made."""
    monkeypatch.setattr(jit.config, "CACHE_DIR", "")
    monkeypatch.setattr(jit.sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(jit.os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(jit, "_warned", False)
    with pytest.warns(RuntimeWarning, match="this user has no home folder"):
        assert jit.cache_folder.__wrapped__() is None


def test_only_the_kernel_itself_is_optimised_and_emitted(package, tmp_path):
    """Neither the callee nor the layers of the parallel loop; a second kernel links the same callee."""
    code = "\n".join([
        "from numba.core.codegen import CPUCodeLibrary, JITCodeLibrary",
        "emitted, emit = [], JITCodeLibrary._finalize_specific",
        "JITCodeLibrary._finalize_specific = lambda library: (emitted.append(library.name), emit(library))",
        CALL,
        "print(emitted.count('change_all'), sum('gufunc' in name or name == 'change' for name in emitted))",
    ])
    assert run(package, code, tmp_path / "cache")[0].split() == ["2.0", "1", "0"]


def test_no_condition_stands_within_prange():
    """numba would run such a loop in one thread, and say nothing as long as the kernel has another loop."""
    loops = [(path.name, call) for path in Path(jit.__file__).parent.glob("*.py")
             for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "prange"]
    assert len(loops) > 20
    for name, call in loops:
        conditions = [node for node in ast.walk(call) if isinstance(node, (ast.IfExp, ast.BoolOp))]
        assert not conditions, f"{name}:{call.lineno}"


def test_python_cannot_call_what_is_compiled_into_kernels(package, tmp_path):
    code = "\n".join([
        "from tinynet.kernels.callee import change",
        "try:",
        "    change(1.0)",
        "except TypeError as error:",
        "    print(error)",
    ])
    assert run(package, code, tmp_path / "cache")[0].startswith("change is an @inner function, which Python cannot")


def test_compiling_keeps_nothing_of_its_callers(package, tmp_path):
    """What numba leaves for the collector of cycles, which is off here, would hold their variables, too."""
    code = "\n".join([
        "import gc, weakref",
        "gc.disable()",
        "def call():",
        "    local = np.zeros(3, np.float32)",
        "    double_all(local)",
        "    return weakref.ref(local)",
        "print(call()())",
    ])
    assert run(package, code, tmp_path / "cache")[0] == "None"


def test_users_settings_of_numba_are_left_alone(package, tmp_path):
    code = CALL + "\nimport numba.core.caching as c; print(c.FunctionCache._impl_class._locator_classes == " \
                  "c.CacheImpl._locator_classes)"
    assert run(package, code, tmp_path / "cache")[0].endswith("True")


@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_two_python_threads_may_launch_at_once(package, tmp_path, layer):
    code = "\n".join([
        "from concurrent.futures import ThreadPoolExecutor",
        "try:",
        "    change_all(a)",
        "except ValueError:",
        "    raise SystemExit(0)              # this layer is not installed",
        "arrays = [np.zeros(1000, np.float32) for _ in range(400)]",
        "with ThreadPoolExecutor(4) as pool: list(pool.map(change_all, arrays))",
        "assert all((one == 1).all() for one in arrays)",
    ])
    run(package, code, tmp_path / "cache", NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")


def test_plain_functions_without_jit(package, tmp_path):
    code = CALL + "; print(type(change_all).__name__)"
    out, err = run(package, code, tmp_path / "cache", NUMBA_DISABLE_JIT="1")
    assert out.split() == ["2.0", "function"]
    assert err == ""


def test_old_folders_are_removed(tmp_path):
    folders = [tmp_path / f"{i:016x}" for i in range(20)]
    for age, folder in enumerate(folders):
        folder.mkdir()
        (folder / "kernel.nbc").touch()
        used = folder.stat().st_mtime - age * (20 * 86400 if age == 3 else 1)
        os.utime(folder, (used, used))
    (tmp_path / "not-ours").mkdir()
    jit._clean(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert "not-ours" in left
    assert folders[3].name not in left                            # 60 days old
    assert left == [one.name for one in folders if one != folders[3]][:jit.KEPT_FOLDERS + 1] + ["not-ours"]


def test_fingerprint_is_of_the_sources():
    assert jit.FINGERPRINT == jit._fingerprint() and len(jit.FINGERPRINT) == 16
    assert Path(jit.__file__).parent.joinpath("tile.py").exists()
