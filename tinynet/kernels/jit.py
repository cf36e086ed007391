"""How kernels are compiled, cached on disk, announced and launched.

    @kernel    a parallel loop over arrays, called from Python; compiled at its first call, then cached
    @inner     a function that kernels call; compiled into them

Under NUMBA_DISABLE_JIT=1 both give the plain Python function back, so that every kernel can be stepped
through.

Four things are not left to numba:

- Its own cache watches only the file of the function that was called: after an edit of a callee in another
  file it goes on running the old code. Here the cache is a folder named by a hash of all that decides the
  machine code: every kernel's source, the versions, the processor, the settings. Another source, another
  folder.
- Compiling takes seconds. A line on stderr says so: `tinynet: compiling correlate for float32 ... 5.2 s`.
- What numba leaves behind when it has compiled refers, through its frames and their callers' frames, to all local
  variables up to those of the program, until Python's collector of cycles comes by: a graph that is done with would
  live on, and hold the parameters read-only. So it is collected at once.
- One of numba's threading layers kills the process if two Python threads launch kernels at once: a lock
  stands guard.

Compiling once a kernel, and not its callees by themselves, is the business of parts.py. Four habits help, too.
A kernel is one prange loop that calls an @inner function, because numba treats all that stands in a parallel
function as possibly parallel. It passes np.int64(i) on: prange counts in unsigned integers, for which numba would
compile the callee a second time. Tuples hold no literal numbers: each would be a type of its own. And no condition
stands within prange(...): such a loop would run in one thread, without a word.
"""
import contextlib
import functools
import gc
import hashlib
import os
import platform
import re
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba import config, njit, prange
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache, _CacheLocator
from numba.np.ufunc import parallel as numba_parallel

from tinynet.kernels.parts import PartDispatcher, WholeCompiler

__all__ = ["cache_folder", "compiled_kernels", "inner", "kernel", "prange"]

# A sum may be reordered into vector lanes ("reassoc"), a product and a sum be fused ("contract"), a division
# become a product with the reciprocal ("arcp"), a zero lose its sign ("nsz"). Never "nnan" or "ninf": NaN and
# Inf must travel. With error_model="numpy" a division by zero gives Inf or NaN; Python's check would stop
# loops from vectorising.
FLAGS = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}


def inner(function: Callable[..., Any]) -> Any:
    """Compile `function` as a callee of kernels; Python cannot call it."""
    return function if config.DISABLE_JIT else PartDispatcher(function, FLAGS)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function`, whose `prange` loops run in parallel, when it is first called with some dtype."""
    if config.DISABLE_JIT:
        return function
    options = {"parallel": True, "no_cfunc_wrapper": True, **FLAGS}
    dispatcher = njit(pipeline_class=WholeCompiler, **options)(function)
    dispatcher._cache = _AnnouncingCache(function)      # cache=True would set numba's own
    dispatcher.compile = functools.partial(_compile_and_clear, dispatcher.compile)

    @functools.wraps(function)
    def launch(*arguments):
        if _layer_is_threadsafe:
            return dispatcher(*arguments)
        if _lost_by_fork:
            raise RuntimeError(f"{function.__name__.strip('_')}: {_lost_by_fork}")
        with _launch_lock:
            result = dispatcher(*arguments)
            _ask_threading_layer()
        return result

    launch.dispatcher = dispatcher
    return launch


def _compile_and_clear(compile, signature):
    """The collector is paused meanwhile: then all that is left is young, and found in no time."""
    was_enabled, before = gc.isenabled(), len(compiled_kernels)
    gc.disable()
    try:
        return compile(signature)
    finally:
        if len(compiled_kernels) > before:
            gc.collect(0)
        if was_enabled:
            gc.enable()


# ---- Launching ---------------------------------------------------------------------------------------------
# numba chooses its threading layer at the first parallel launch of the process: tbb or omp where they are
# found, else workqueue, which aborts if two Python threads launch at once. Until the choice is known,
# launches take turns.
#
# A process that is forked from this one has the thread that forked alone, and what another thread was about, it would
# find half done. So while launches take turns, a fork takes one, too: it waits for the kernel that is running.
# workqueue starts its threads anew in the child; GNU's omp kills a child that tries, without a word to Python. So after
# omp, a child's kernels raise in place of that.

_launch_lock = threading.RLock()     # re-entrant: a signal's handler may launch, or fork, amid a launch of its thread
_layer_is_threadsafe = False
_lost_by_fork = ""                   # why this process can launch nothing


def _ask_threading_layer():
    global _layer_is_threadsafe
    try:
        _layer_is_threadsafe = numba.threading_layer() in ("omp", "tbb")
    except ValueError:                                      # no parallel loop has run yet (all were empty)
        pass


def _in_forked_child():
    global _layer_is_threadsafe, _lost_by_fork
    if numba_parallel._threading_layer == "omp":
        _layer_is_threadsafe = False
        _lost_by_fork = ("this process was forked from one that had run kernels already, whose threads (of OpenMP) "
                         'a fork leaves behind; start it with multiprocessing.get_context("spawn") or "forkserver", '
                         "which begin anew, or fork before the first operation, or set NUMBA_THREADING_LAYER=workqueue")
    numba_parallel._backend_init_thread_lock = threading.RLock()     # another thread may have held it
    _launch_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_launch_lock.acquire, after_in_parent=_launch_lock.release,
                        after_in_child=_in_forked_child)


# ---- The cache ---------------------------------------------------------------------------------------------

KEPT_FOLDERS = 8                 # of other sources, versions or processors; some megabytes each
KEPT_DAYS = 30                   # since the last use

# numba's settings that change the code it emits
SETTINGS = ("CPU_NAME", "CPU_FEATURES", "ENABLE_AVX", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK",
            "DEBUGINFO_DEFAULT")


def _fingerprint():
    """Hash of all that decides the machine code, taken at import, when the files are what is imported.

    None where there are no sources to read (frozen programs, zip files).
    """
    folder = Path(__file__).parent
    try:
        paths = sorted(folder.rglob("*.py"))
        sources = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths]
    except OSError:
        return None
    if not sources:
        return None
    versions = numba.__version__, np.__version__, llvmlite.__version__, sys.version
    machine = platform.machine(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    settings = [str(getattr(config, name, None)) for name in SETTINGS]
    return hashlib.sha256(repr((sources, versions, machine, settings)).encode()).hexdigest()[:16]


FINGERPRINT = _fingerprint()


def _cache_home():
    """NUMBA_CACHE_DIR if it is set, else where this platform's users keep caches; OSError for a user without a home."""
    if config.CACHE_DIR:
        home = Path(config.CACHE_DIR)
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA") or os.path.expanduser("~\\AppData\\Local"))
    elif sys.platform == "darwin":
        home = Path(os.path.expanduser("~/Library/Caches"))
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if home.parts[:1] == ("~",):                             # what expanduser can't find it leaves as it is
        raise OSError("this user has no home folder")
    return home.absolute() / "tinynet-kernels"


@functools.cache
def cache_folder() -> Path | None:
    """The folder for this fingerprint, or None, after one warning, if it cannot be had."""
    if FINGERPRINT is None:
        return _warn_uncached("tinynet's sources cannot be read")
    try:
        home = _cache_home()
        folder = home / FINGERPRINT
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe-{os.getpid()}"      # os.access knows nothing of read-only disks
        probe.touch()
        probe.unlink()
        os.utime(folder)                                     # last used: now
    except OSError as error:
        return _warn_uncached(error)
    if is_new:
        _clean(home)
    return folder


def _clean(home):
    """Remove the folders of other fingerprints that are old or many.

    A process that still uses one loses nothing but time: it compiles again what it misses.
    """
    try:
        folders = [path for path in home.iterdir() if re.fullmatch("[0-9a-f]{16}", path.name)]
        used = sorted(((path.stat().st_mtime, path) for path in folders), reverse=True)
    except OSError:                              # another process is cleaning: leave it to that one
        return
    for rank, (last_use, path) in enumerate(used):
        if rank > KEPT_FOLDERS or time.time() - last_use > KEPT_DAYS * 86400:
            shutil.rmtree(path, ignore_errors=True)


_warned = False


def _warn_uncached(reason):
    global _warned
    if not _warned:
        _warned = True
        warnings.warn("tinynet: compiled kernels cannot be kept on disk, so that every process compiles them "
                      f"anew ({reason}); set NUMBA_CACHE_DIR to a folder that can be written",
                      RuntimeWarning, stacklevel=2)


class _Locator(_CacheLocator):
    """Tells numba's cache: in the folder of this fingerprint, everything is fresh."""

    def __init__(self, function, file):
        self._py_file = file
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function, file):
        return cls(function, file)

    def get_cache_path(self):
        return str(cache_folder())

    def get_source_stamp(self):
        return FINGERPRINT

    def get_disambiguator(self):
        return str(self._line)


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _DiskCache(FunctionCache):
    _impl_class = _Implementation


compiled_kernels = []            # by this process: a name for each time that it compiled


class _AnnouncingCache(NullCache):
    """A dispatcher asks its cache before it compiles, and tells it afterwards: the place to announce it, too.

    The code is kept on disk if there is a place. Trouble with the disk never becomes the user's trouble.
    """

    def __init__(self, function):
        self.function = function

    @functools.cached_property
    def disk(self):
        return NullCache() if cache_folder() is None else _DiskCache(self.function)

    def load_overload(self, signature, target):
        try:
            found = self.disk.load_overload(signature, target)
        except Exception:                                # a damaged file counts as none: a new index
            found = None
            with contextlib.suppress(OSError):
                self.disk.flush()
        if found is not None and tuple(found.signature.args) != _types(signature):
            found = None                                 # two processes gave their files one name: see test_jit.py
        if found is None:
            self.start = time.perf_counter()
            _say(f"tinynet: compiling {self.function.__name__.strip('_')} for {_first_dtype(signature)} ...")
        return found

    def save_overload(self, signature, compiled):
        _say(f" {time.perf_counter() - self.start:.1f} s\n")
        compiled_kernels.append(self.function.__name__)
        try:
            self.disk.save_overload(signature, compiled)
        except OSError as error:                             # the disk is full, or the folder has gone
            _warn_uncached(error)


def _types(signature):
    return tuple(getattr(signature, "args", signature))      # a signature, or a tuple of types


def _first_dtype(signature):
    return next((str(one.dtype) for one in _types(signature) if hasattr(one, "dtype")), "numbers")


def _say(text):
    if sys.stderr is not None:                               # None in windowed programs
        print(text, end="", file=sys.stderr, flush=True)
