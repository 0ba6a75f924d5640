"""An encoder as an ONNX graph: any batch size and length, attention as plain products, nothing of empty sublayers."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.data.rows import Batch
from trimformer.errors import UnsupportedModel, first_line
from trimformer.model.pooling import Pooling
from trimformer.model.structure import Structure, read_structure
from trimformer.observing.watching import frozen

OPSET = 20
"""Version of ONNX's operators: the first with GELU as one of them; ONNX Runtime reads it since 1.17."""
AXES = ("batch", "length")
EXAMPLE = (2, 7)
"""Rows and tokens of the pass that is traced: not 1, which would be taken for a size that never changes."""
REMEDY = "compute this otherwise, or stay with PyTorch"


def to_onnx(model: PreTrainedModel, file: Path, inputs: Sequence[str], pooling: Pooling | None = None) -> None:
    """Write an encoder as one ONNX file that takes any batch size and length.

    Shapes of what is inside the graph are not written down: knowing them, ONNX Runtime (1.32) fuses sums with layer
    norms on the CPU, which takes several times as long as both alone.

    Raises:
        UnsupportedModel: a decoder, or an operator that ONNX does not have; names the site.
    """
    import onnx  # noqa: PLC0415  # an extra

    structure = read_structure(model)
    if structure.architecture.causal:
        raise UnsupportedModel(f"{model.config.model_type} is a decoder: only encoders can be exported to ONNX")
    batch = {name: torch.ones(EXAMPLE, dtype=torch.long, device=model.device) for name in inputs}
    with frozen(model), _plain_attention(model), _without_empty_sublayers(structure), torch.no_grad(), quiet():
        names = list(outputs_of(model, batch, pooling))
        program = _traced(_Tuple(model, pooling), batch, structure)
        try:
            exported: Any = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=list(inputs), verbose=False
            )
        except torch.onnx.OnnxExporterError as error:
            raise _unconvertible(error, program, structure) from error
    proto = exported.model_proto
    del proto.graph.value_info[:]
    _name_axes(proto.graph)
    _name_outputs(proto.graph, names)
    onnx.save(proto, file)


def _name_axes(graph: Any) -> None:
    """Name the axes of inputs and outputs as in `AXES`, in place of the exporter's own symbols."""
    names = {
        axis.dim_param: name
        for tensor in graph.input
        for axis, name in zip(tensor.type.tensor_type.shape.dim, AXES, strict=True)
    }
    for tensor in [*graph.input, *graph.output]:
        for axis in tensor.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Name the outputs; what has such a name inside the graph, as `embedding` may, gets another."""
    new = {output.name: name for output, name in zip(graph.output, names, strict=True)}
    new |= {name: f"{name}_inside" for name in names if name not in new}
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for named in [*graph.initializer, *graph.output]:
        named.name = new.get(named.name, named.name)


def outputs_of(model: PreTrainedModel, batch: Batch, pooling: Pooling | None) -> dict[str, Tensor]:
    """Run a model and give its outputs by name; with a pooling, the hidden states and their `embedding`."""
    found = model(**batch)
    if pooling is None:
        return {name: values for name, values in found.items() if torch.is_tensor(values)}
    hidden = found["last_hidden_state"]
    return {"last_hidden_state": hidden, "embedding": pooling(hidden, batch["attention_mask"])}


@contextmanager
def quiet() -> Iterator[None]:
    """Within the context, the exporter and the quantizer warn of nothing, and log errors only."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Tuple(nn.Module):
    """A model whose outputs are a tuple of tensors, as a graph has them."""

    def __init__(self, model: PreTrainedModel, pooling: Pooling | None) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            batch["token_type_ids"] = token_type_ids
        return tuple(outputs_of(self.model, batch, self.pooling).values())


class _BiasOnly(nn.Module):
    """A consumer of a site without units: gives its bias, `(width,)`, whatever it is given; zeros where it has none."""

    def __init__(self, projection: Any, width: int) -> None:
        super().__init__()
        bias: Tensor | None = projection.bias
        self.bias = nn.Parameter(torch.zeros(width) if bias is None else bias.detach(), requires_grad=False)

    def forward(self, _: Tensor) -> Tensor:
        return self.bias


def _traced(model: nn.Module, batch: Batch, structure: Structure) -> torch.export.ExportedProgram:
    axes = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    try:
        return torch.export.export(model, (), kwargs=batch, dynamic_shapes=dict.fromkeys(batch, axes), strict=False)
    except RuntimeError as error:
        where = _site_of(structure, _running(structure, error.__traceback__))
        raise UnsupportedModel(f"{where} cannot be exported to ONNX: {first_line(error)}; {REMEDY}") from error


def _running(structure: Structure, trace: TracebackType | None) -> str:
    """Find the path of the innermost module that was running when an error came; empty where none of the model was."""
    names = {id(module): name for name, module in structure.base.named_modules()}
    path = ""
    while trace is not None:
        path = names.get(id(trace.tb_frame.f_locals.get("self"))) or path
        trace = trace.tb_next
    return path


def _unconvertible(error: Exception, program: torch.export.ExportedProgram, structure: Structure) -> UnsupportedModel:
    """Word the error that ONNX lacks an operator of a site; what is caught may name a part of it, by its name's end."""
    found = re.search(r"torch\.ops\.\w+\.(\w+)\.", _whole_text(error))
    for node in program.graph.nodes:
        name = str(node.target).split(".")
        if found and len(name) == 3 and name[1].endswith(found[1]):
            paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()] or [""]
            where = _site_of(structure, _below_base(structure, paths[-1]))
            return UnsupportedModel(f"{where} uses {node.target}, which cannot be exported to ONNX; {REMEDY}")
    return UnsupportedModel(f"the model cannot be exported to ONNX: {first_line(error)}; {REMEDY}")


def _whole_text(error: BaseException | None) -> str:
    """Join what an error and all its causes say."""
    return "" if error is None else f"{error}\n{_whole_text(error.__cause__)}"


def _below_base(structure: Structure, path: str) -> str:
    """Turn a path in the traced module into one in the base model, where it is below that."""
    start = f"model.{structure.model.base_model_prefix}." if structure.base is not structure.model else "model."
    return path.removeprefix(start)


def _site_of(structure: Structure, path: str) -> str:
    """Name the site that a module belongs to: the one whose projections have the longest part of the path in common."""
    own = path.split(".")
    depth = min(len(chain.blocks.split(".")) for chain in structure.architecture.chains) + 1

    def common(projection: str) -> int:
        pairs = zip(own, projection.split("."), strict=False)
        return next((index for index, (mine, other) in enumerate(pairs) if mine != other), len(own))

    nearness = {
        site.name: max(common(each) for each in (site.consumer, *(producer.path for producer in site.producers)))
        for site in structure
    }
    nearest = max(nearness, key=lambda name: nearness[name])
    return f"site {nearest}" if nearness[nearest] >= depth else path or "the model"


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the context attention is computed by matrix products and a softmax, which every runtime has."""
    before = model.config._attn_implementation  # noqa: SLF001  # nothing public tells it
    try:
        model.set_attn_implementation("eager")
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _without_empty_sublayers(structure: Structure) -> Iterator[None]:
    """Within the context a sublayer without units is its bias: nothing is left of what comes before it."""
    empty = {site: structure.consumer(site) for site in structure if site.units == 0}
    try:
        for site, consumer in empty.items():
            structure.base.set_submodule(site.consumer, _BiasOnly(consumer, site.width))
        yield
    finally:
        for site, consumer in empty.items():
            structure.base.set_submodule(site.consumer, consumer)
