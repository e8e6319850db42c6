"""Inference whose arrays stay where the network runs: torch tensors on a GPU, or on the CPU as its proof."""
