"""What `gpu.sh` and `gpu_parts.sh` do: measure on a GPU; bring wheels to a machine without a package index.

Nothing in here was run on a GPU so far; it was rehearsed on the CPU, by `gpu.sh --rehearse`.
"""
