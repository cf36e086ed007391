"""A kernel is compiled as a whole: what it consists of is linked into it, not optimised and emitted by itself.

numba makes everything that it compiles ready to be called from Python: it links in what a function calls, has
LLVM optimise the lot, and emits machine code. A kernel is some five functions deep, and its parallel loop adds
three layers more. Thus the innermost loop was optimised and emitted nine times over, and three quarters of the
time went into machine code that nobody ever called. Here such layers are *parts*. They stay as they come from
numba until the kernel itself links all of them, optimises them once, and emits them once. That halves the time
to compile; the code is as fast.

numba foresees this much: a function may be given its own compiler (`pipeline_class`); the compiler has a
*context*, which says how functions become callable; and the context has a *library* for each function, which
holds its code.
"""

import copy
import functools

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.cpu import CPUContext
from numba.core.registry import CPUDispatcher


class WholeCompiler(Compiler):
    """Compiles a kernel whose parts are all merely linked, or, if nothing is to be parallel in it, such a part."""

    def define_pipelines(self):
        state = self.state
        if state.flags.auto_parallel.enabled:                # the kernel itself: a library as numba makes it
            state.library = state.targetctx.codegen().create_library(state.func_id.func_qualname)
            state.library.enable_object_caching()
        state.targetctx = _context_of_parts(state.targetctx)
        return super().define_pipelines()


class PartDispatcher(CPUDispatcher):
    """What @inner gives: other compiled functions can call it, Python can't."""

    def __init__(self, function, options):
        options = {"nopython": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **options}
        super().__init__(function, targetoptions=options, pipeline_class=WholeCompiler)

    def add_overload(self, result):
        self.overloads[tuple(result.signature.args)] = result

    def _compile_for_args(self, *arguments, **_):
        raise TypeError(f"{self.__name__} is an @inner function, which Python cannot call: call it from a "
                        "@kernel, or set NUMBA_DISABLE_JIT=1")


class _Part(JITCodeLibrary):
    """Code that is complete when all that it calls is linked in."""

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalized = True


class _PartContext(CPUContext):

    def get_executable(self, library, description, environment):
        if isinstance(library, _Part):
            return object()                                  # only a key, under which callers find the part
        return super().get_executable(library, description, environment)


@functools.cache
def _context_of_parts(context):
    """A copy of the context that makes parts."""
    if isinstance(context, _PartContext):
        return context
    parts = copy.copy(context)
    parts.__class__ = _PartContext
    parts._internal_codegen = copy.copy(context.codegen())
    parts._internal_codegen._library_class = _Part
    parts.cached_internal_func = {}                          # of functions whose code is elsewhere
    return parts
