"""ONNX, the format that other frameworks and runtimes read and write: export(model, example, path) and load(path)."""

from tinynet.interop.onnx_export import export
from tinynet.interop.onnx_load import load

__all__ = ["export", "load"]
