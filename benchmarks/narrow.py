"""Training steps with registers of 256 bits on both sides, as on processors without AVX-512.

Both are told so by settings that hold for a whole process: two workers take turns.
"""

import llvmlite.binding as llvm

from benchmarks import NETWORKS
from benchmarks.comparison import RATIO, batch_name
from benchmarks.measure import alternate_turns, row, table
from benchmarks.worker import worker

WIDE = "avx512", "avx10", "amx"


def lines(run):
    """The section's lines, each as soon as it is known."""
    features = llvm.get_host_cpu_features()
    if not features.get("avx2"):
        yield "Not measured: the processor has no AVX2."
        return
    yield "Code for AVX2, no AVX-512; each side in a process of its own, PyTorch eagerly in channels_last."
    yield ""
    yield from table("ms: median (minimum; quartiles)", "tinynet", "PyTorch", RATIO)
    settings = {"tinynet": numba_settings(features), "channels_last": TORCH_SETTINGS}
    for name, images in NETWORKS.items():
        with (
            worker("tinynet", name, settings["tinynet"], run.machine.threads) as own,
            worker("channels_last", name, settings["channels_last"], run.machine.threads) as other,
        ):
            for kind, command in (("training", "step"), ("inference", "infer")):
                sides = {"tinynet": own, "PyTorch": other}
                times = alternate_turns(
                    {side: lambda ask=ask, command=command: ask(command) for side, ask in sides.items()},
                    run.turns,
                )
                ratio = run.figures[f"{name}, {kind}"] = times["PyTorch"].median / times["tinynet"].median
                yield row(
                    f"{batch_name(name, images)}, {kind}", times["tinynet"], times["PyTorch"], f"{ratio:.2f}"
                )


TORCH_SETTINGS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def numba_settings(features):
    """numba goes by the host's features, whatever NUMBA_CPU_NAME says, unless these are given, too."""
    narrow = {name: has and not name.startswith(WIDE) for name, has in features.items()}
    flat = ",".join(f"{'+' if has else '-'}{name}" for name, has in narrow.items())
    return {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": flat}
