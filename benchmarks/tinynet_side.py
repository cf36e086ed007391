"""tinynet's side of training and inference: a network of the comparison, Adam, and a batch."""

import tinynet as tn
from benchmarks.tinynet_networks import loss, network
from tinynet import optim


class Trainer:
    """The network, Adam and a batch."""

    def __init__(self, name, batch, width=32):
        tn.manual_seed(0)
        self.name = name
        self.images, self.targets = batch
        self.model = network(name, self.images.shape[1], width)
        self.optimizer = optim.Adam(self.model.parameters())

    def loss(self):
        return loss(self.name, self.model(tn.Tensor(self.images)), self.targets)

    def step(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def infer(self):
        with tn.no_grad():
            return self.model(tn.Tensor(self.images))

    def results(self):
        """(loss, {name: gradient}, outputs in evaluation after this one training forward pass)"""
        value = self.loss()
        value.backward()
        gradients = {name: p.grad.numpy() for name, p in self.model.named_parameters()}
        self.optimizer.zero_grad()
        return value.item(), gradients, self.outputs()

    def outputs(self):
        """The network's outputs in evaluation, as a list of arrays."""
        self.model.eval()
        output = self.infer()
        self.model.train()
        return [each.data for each in (output if isinstance(output, tuple) else (output,))]
