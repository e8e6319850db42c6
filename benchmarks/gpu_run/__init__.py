"""Implementation of `gpu.sh` (measure on a GPU) and `gpu_parts.sh` (wheels for a machine without an index).

This package has not been run on a GPU so far; it was rehearsed on the CPU with `gpu.sh --rehearse`.
"""
