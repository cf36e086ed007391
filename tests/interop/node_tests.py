"""ONNX's node tests, run through interop.onnx.load: `python -m tests.interop.node_tests` prints the table.

For every operator of the list below: how many of its tests pass, and why the others don't.
"""

import collections
import warnings

import numpy as np
import onnx

import tinynet as tn
from tinynet.interop.onnx_load import Imported

OPERATORS = """Conv ConvTranspose MaxPool AveragePool GlobalAveragePool BatchNormalization Gemm MatMul Softmax
    LogSoftmax Relu LeakyRelu Sigmoid Tanh Gelu Softplus Clip Flatten Reshape Transpose Concat Pad Add Sub Mul Div Pow
    Sqrt Exp Log Resize GroupNormalization LayerNormalization SoftmaxCrossEntropyLoss Dropout ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare""".split()


def selected():
    """(operator, case) of each test of one of the operators alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        cases = load_model_tests(kind="node")
    for case in cases:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in OPERATORS and nodes[0].domain in ("", "ai.onnx"):
            yield nodes[0].op_type, case


def outcome(case):
    """"" if the test passes, else why not."""
    try:
        module = Imported(case.model).eval()
        for inputs, expected in case.data_sets:
            with tn.no_grad():
                outputs = module(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            for y, z in zip(outputs, expected, strict=True):
                if y.shape != z.shape or (z.dtype.kind == "f" and y.dtype != z.dtype):
                    return f"gives {y.dtype} {y.shape} for {z.dtype} {z.shape}"
                np.testing.assert_allclose(y.numpy(), z, rtol=case.rtol, atol=max(case.atol, 1e-6))
    except AssertionError:
        return "other values"
    except Exception as error:
        return f"{error}".strip().splitlines()[-1].strip()
    return ""


def table():
    """{operator: (passed, {reason: [names of the tests]})}"""
    results = {name: [0, collections.defaultdict(list)] for name in OPERATORS}
    for name, case in selected():
        reason = outcome(case)
        if reason:
            results[name][1][reason].append(case.name)
        else:
            results[name][0] += 1
    return results


def main():
    print(f"onnx {onnx.__version__}\n\n| operator | pass | of | why the others don't |\n|---|--:|--:|---|")
    results, passed, count = table(), 0, 0
    for name, (good, reasons) in results.items():
        others = sum(map(len, reasons.values()))
        passed, count = passed + good, count + good + others
        why = "; ".join(f"{reason} ({len(names)}: {', '.join(names[:3])})" for reason, names in reasons.items())
        print(f"| {name} | {good} | {good + others} | {why} |")
    print(f"| all | {passed} | {count} | |")


if __name__ == "__main__":
    main()
