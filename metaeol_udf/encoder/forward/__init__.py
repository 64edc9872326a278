"""The forward pass over shared prefixes, cell by cell, on CPUs and GPUs, with the weights of each family."""
