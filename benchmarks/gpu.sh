#!/usr/bin/env bash
# All that can be measured on one NVIDIA GPU in one call of at most 8 minutes; prints one table.
#
#     benchmarks/gpu.sh [--bundle left-atrium] [--scan FILE] [--parts FOLDER] [--list-sha256 HASH]
#                       [--out FOLDER] [--minutes 8] [--only GROUP ...] [--rehearse]
#
# Needs a CUDA build of torch. What else is missing comes from FOLDER, as gpu_parts.sh makes it, and is installed
# below OUT, not into the environment of PYTHON (default: python3). TensorRT is measured where it is installed.
# Not run so far: no machine with a GPU was at hand. It was rehearsed on the CPU, by --rehearse.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m gpu_run "$@"
