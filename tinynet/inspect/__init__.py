"""What a learner looks through: a model dry run, a step's time, the recorded graph as a picture, cards, and a tour."""

from tinynet.inspect.graph import graph
from tinynet.inspect.profile import profile
from tinynet.inspect.summary import summary

__all__ = ["graph", "profile", "summary"]
