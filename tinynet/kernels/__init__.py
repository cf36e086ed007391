"""The loops that do the work: arrays in, arrays out; nothing in here knows what a Tensor is."""
