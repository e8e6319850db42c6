"""What `gpu.sh` and `gpu_parts.sh` do: wheels in parts for a machine without a package index, and its measurements.

Nothing in here was run on a GPU so far; it was rehearsed on the CPU, by `gpu.sh --rehearse`.
"""
