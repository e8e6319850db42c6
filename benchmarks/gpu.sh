#!/usr/bin/env bash
# torch, ONNX Runtime CUDA and TensorRT on one GPU, float32 and float16: latency, throughput, and the masks compared.
#
#     benchmarks/gpu.sh [BUNDLE]        default: left-atrium
#
# Each runtime runs in a process of its own. Needs an NVIDIA GPU, a CUDA build of torch, onnxruntime-gpu,
# and TensorRT 11 from NVIDIA's own index. Not run so far: no machine with a GPU was at hand.
set -eu
cd "$(dirname "$0")/.."
bundle=${1:-left-atrium}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
python -m pytest -q tests/gpu
for precision in float32 float16; do
  python -m c3s3_seg export "$bundle" --to onnx --precision $precision -o "$out/onnx-$precision"
  python -m c3s3_seg export "$bundle" --to tensorrt --precision $precision --batch 4 -o "$out/tensorrt-$precision"
done
echo "| runtime | precision | one patch, ms (median of 50) | patches a second, batch of 4 | flipped voxels against torch float32 |"
echo "|---|---|---|---|---|"
python benchmarks/gpu.py "$bundle" "$out" torch float32
for runtime in torch onnx tensorrt; do
  for precision in float32 float16; do
    [ "$runtime-$precision" = torch-float32 ] || python benchmarks/gpu.py "$bundle" "$out" $runtime $precision
  done
done
