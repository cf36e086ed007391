"""tinynet's side of a training step: the network of examples/segmentation.py, Adam, and a batch."""

import tinynet as tn
from benchmarks import CLASSES, WIDTHS
from examples.segmentation import FCN
from tinynet import optim


class Trainer:
    """The network, Adam and a batch."""

    def __init__(self, images, targets):
        tn.manual_seed(0)
        self.model = FCN(CLASSES, WIDTHS)
        self.optimizer = optim.Adam(self.model.parameters())
        self.images, self.targets = images, targets

    def loss(self):
        return tn.cross_entropy(self.model(tn.Tensor(self.images)), self.targets)

    def step(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def logits(self):
        with tn.no_grad():
            return self.model(tn.Tensor(self.images)).data

    def gradients(self):
        """{name: array}"""
        return {name: p.grad.numpy() for name, p in self.model.named_parameters()}
