"""How fast the network, the training step and the data are here, by part, and what of the hardware's speed that is."""
