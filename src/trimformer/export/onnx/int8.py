"""Int8 files, written by ONNX Runtime's own quantizer."""

from __future__ import annotations

from pathlib import Path

from trimformer.export.onnx.graph import quiet


def quantize(file: Path, out: Path) -> None:
    """Write the int8 form of an ONNX file.

    Weights that multiply a sequence become int8, per output channel; what they multiply becomes uint8 by its range in
    each call. Embeddings, norms, softmax, products of two activations, pooler and classifier stay in float.
    """
    import onnx  # noqa: PLC0415  # an extra
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415  # as above

    graph = onnx.load(file).graph
    sequences = [node.name for node in graph.node if node.op_type == "MatMul"]  # of single vectors it is Gemm
    with quiet():
        quantize_dynamic(
            file,
            out,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=sequences,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    proto = onnx.load(out)
    del proto.graph.value_info[:]  # as in to_onnx
    onnx.save(proto, out)
