"""Encoders as ONNX graphs: how they are written, made int8, and run."""
