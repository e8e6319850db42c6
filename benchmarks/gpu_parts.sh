#!/usr/bin/env bash
# Makes the parts that gpu.sh takes on a machine without a package index: onnxruntime-gpu, the base packages, and
# what the tests need, as pieces of 55 MB with a list of their hashes.
#
#     benchmarks/gpu_parts.sh OUT [--wheel FILE] [--python 3.12] [--without NAME ...] [--part-mb 55]
#
# PYTHON names the interpreter (default: python3). What comes out was never used on a machine with a GPU so far.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root:$root/benchmarks"
exec "${PYTHON:-python3}" -m gpu_run.make_parts "$@"
