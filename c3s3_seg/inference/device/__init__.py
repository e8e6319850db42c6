"""Inference whose arrays stay on the network's device: torch tensors on a GPU or, in tests, on the CPU."""
