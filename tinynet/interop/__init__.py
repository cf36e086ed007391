"""Other frameworks' weights and models, and other machines: see torch.py, onnx.py and mpi.py.

None of the packages that they need is imported before it is used.
"""

from tinynet.interop import torch

__all__ = ["torch"]
