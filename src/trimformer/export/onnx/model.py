"""An exported model in ONNX Runtime, called as a transformers model is: `model(**batch)`, outputs by name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from trimformer.data.batches import device_of_batch
from trimformer.data.rows import Batch
from trimformer.errors import CheckpointError, InvalidOption, first_line
from trimformer.model.soundness import ANYTHING

FLOAT, INT8 = "model.onnx", "model.int8.onnx"
"""Names of the files in an exported folder."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
ERRORS_ONLY = 3


def require_onnx() -> None:
    """Refuse to begin where a package that ONNX needs is missing.

    Raises:
        InvalidOption: names it, and the command that installs it.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InvalidOption(f"ONNX needs {', '.join(missing)}, not installed here: pip install 'trimformer[onnx]'")


class OnnxModel(nn.Module):
    """A model in ONNX Runtime, to be evaluated and timed in place of the one that it was exported from.

    Computes with as many CPU threads as PyTorch has when it is made. Its threads rest between two calls, so that they
    take no time from what is measured in turn with it.

    Args:
        file: the ONNX file.
        config: of the model that was exported.
        device: `cpu`, or a GPU if the installed onnxruntime is built for it; inputs and outputs are then copied.

    Raises:
        InvalidOption: the extra `onnx` is not installed, or onnxruntime cannot use the device.
        CheckpointError: the file cannot be read.
    """

    def __init__(self, file: Path, config: Any, device: torch.device | str = "cpu") -> None:
        super().__init__()
        require_onnx()
        import onnxruntime as ort  # noqa: PLC0415  # an extra

        self.file, self.config, self.device = file, config, torch.device(device)
        provider = "CUDAExecutionProvider" if self.device.type == "cuda" else "CPUExecutionProvider"
        if provider not in ort.get_available_providers():
            raise InvalidOption(
                f'onnxruntime has no {provider} here: pip install onnxruntime-gpu in its place, or use `device="cpu"`'
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = ERRORS_ONLY
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = ort.InferenceSession(str(file), options, providers=[provider])
        except ANYTHING as error:
            raise CheckpointError(
                f"{file} cannot be read by ONNX Runtime: {first_line(error)}; export the model again"
            ) from error
        self.inputs = [given.name for given in self.session.get_inputs()]
        self.outputs = [found.name for found in self.session.get_outputs()]

    def forward(self, **batch: torch.Tensor) -> ModelOutput:
        """Compute the outputs of a batch by name, on its device; token types that are not given are zero.

        Raises:
            CheckpointError: the graph fails, because it is damaged or the inputs are not its own.
        """
        place = device_of_batch(batch)
        given = self._complete(batch)
        inputs = {name: given[name].cpu().numpy() for name in self.inputs}
        try:
            found = self.session.run(None, inputs)
        except ANYTHING as error:
            raise CheckpointError(
                f"{self.file} fails in ONNX Runtime: {first_line(error)}; export the model again"
            ) from error
        tensors = (torch.from_numpy(values).to(place) for values in found)
        return ModelOutput(zip(self.outputs, tensors, strict=True))

    def _complete(self, batch: Batch) -> Batch:
        if "token_type_ids" in self.inputs and "token_type_ids" not in batch:
            return batch | {"token_type_ids": torch.zeros_like(next(iter(batch.values())))}
        return batch
