"""Other frameworks' weights and models: see torch.py and onnx.py; neither package is imported before it is used."""

from tinynet.interop import torch

__all__ = ["torch"]
