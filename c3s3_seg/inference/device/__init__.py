"""Inference whose arrays stay where the network runs: torch tensors on a GPU, or in tests on the CPU."""
