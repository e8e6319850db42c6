"""The runtimes that run a network: OpenVINO, ONNX Runtime, torch, TensorRT."""
