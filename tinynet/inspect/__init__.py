"""What a learner looks through: what a model makes of a shape, the recorded graph as a picture, cards, and a tour."""

from tinynet.inspect.graph import graph
from tinynet.inspect.summary import summary

__all__ = ["graph", "summary"]
