"""What a learner looks through: what a model makes of a shape, where a step's time goes, the graph as a picture."""

from tinynet.inspect.graph import graph
from tinynet.inspect.profile import profile
from tinynet.inspect.summary import summary

__all__ = ["graph", "profile", "summary"]
