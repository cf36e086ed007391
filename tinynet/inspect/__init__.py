"""What a learner looks through: what a model makes of a shape, and the recorded graph as a picture."""

from tinynet.inspect.graph import graph
from tinynet.inspect.summary import summary

__all__ = ["graph", "summary"]
