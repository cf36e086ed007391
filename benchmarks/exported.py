"""A network exported from PyTorch to ONNX, and run by ONNX Runtime and by OpenVINO."""

import io
import warnings

from benchmarks.torch_side import from_torch, torch

try:
    import onnxruntime
    import openvino
except ImportError as error:
    raise ImportError(
        f"benchmarks: inference is compared with {error.name}, which is not installed; "
        "it comes with the extra bench: pip install '.[bench]'"
    ) from error


class Runtime:
    """A network in a runtime: subclasses build `self.infer`, which gives its outputs (N, C, H, W)."""

    def __init__(self, model, images, threads):
        raise NotImplementedError

    def outputs(self):
        """As tinynet has them."""
        outputs = [torch.from_numpy(each) for each in self.infer()]
        return [from_torch(each) if each.ndim == 4 else each.numpy() for each in outputs]


class OnnxRuntime(Runtime):
    def __init__(self, model, images, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs = {session.get_inputs()[0].name: images}
        self.infer = lambda: session.run(None, inputs)


class OpenVino(Runtime):
    def __init__(self, model, images, threads):
        core = openvino.Core()
        settings = {  # where the processor can, OpenVINO would take bfloat16 by itself
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", settings)
        request = compiled.create_infer_request()
        self.infer = lambda: list(request.infer({0: images}, share_inputs=True, share_outputs=True).values())


RUNTIMES = {"ONNX Runtime": OnnxRuntime, "OpenVINO": OpenVino}


def exported(trainer, threads):
    """{runtime: its network} of PyTorch's trainer."""
    model = io.BytesIO()
    trainer.model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the exporter that needs no further package is the older one, and says so
        torch.onnx.export(trainer.model, (trainer.images,), model, dynamo=False)
    trainer.model.train()
    images = trainer.images.numpy()
    return {name: runtime(model.getvalue(), images, threads) for name, runtime in RUNTIMES.items()}
