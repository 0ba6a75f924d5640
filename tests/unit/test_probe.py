"""A model that computes otherwise than its architecture says is refused before any work, a broken result at the end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.bert.modeling_bert import BertIntermediate, BertSelfAttention

import trimformer
from tiny_models import inputs, outputs, parameters_by_name, tiny_model
from trimformer import Budget, plugins
from trimformer.errors import NumericalError, UnsupportedModel
from trimformer.model.refusals import not_described
from trimformer.model.structure import read_structure
from trimformer.pruning.probe import check_layout, check_result, shortest_row

ROWS = [{"input_ids": list(range(5, 5 + length))} for length in (9, 6, 12, 7) * 4]


class ScaledByHead(BertSelfAttention):
    """Attention that scales what each head gives by a weight of its own, of which the architecture says nothing."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        mixed, *rest = super().forward(*args, **kwargs)
        by_head = mixed.unflatten(-1, (self.num_attention_heads, -1)) * self.scale[:, None]
        return by_head.flatten(-2), *rest


class CountedNeurons(BertIntermediate):
    """Neurons that are scaled by their number: it runs with fewer of them, and computes something else."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden = super().forward(hidden_states)
        return hidden * torch.arange(1, hidden.shape[-1] + 1)


def model_like(kind: str) -> PreTrainedModel:
    model = tiny_model("bert")
    layer = model.bert.encoder.layer[1]
    if kind == "scaled heads":
        layer.attention.self.__class__ = ScaledByHead
        layer.attention.self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    else:
        layer.intermediate.__class__ = CountedNeurons
    return model


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("scaled heads", r"encoder\.layer\.1\.attention cannot be pruned: .*does not run .*its ScaledByHead has"),
        ("counted neurons", r"encoder\.layer\.1\.ffn cannot be pruned: .*is off by .* masked"),
    ],
)
def test_a_layout_that_is_not_the_described_one_is_refused(kind: str, said: str) -> None:
    model = model_like(kind)
    before = parameters_by_name(model)
    with pytest.raises(UnsupportedModel, match=said) as refused:
        trimformer.prune(model, ROWS, budget=Budget(flops=0.5), method="magnitude", calibration_tokens=None)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_other_layout(dtype: torch.dtype) -> None:
    model = tiny_model("bert").to(dtype)
    check_layout(read_structure(model), shortest_row([inputs(model)]))


def test_a_result_that_is_not_finite_is_refused() -> None:
    small = read_structure(tiny_model("bert"))
    with torch.no_grad():
        small.consumer(small.sites[0]).weight[0, 0] = torch.inf
    with pytest.raises(NumericalError, match="the pruned model computes NaN or infinity"):
        check_result(small, inputs(small.model))


class TestNoTransformersModel:
    class Own(nn.Module):
        def __init__(self, encoder: PreTrainedModel) -> None:
            super().__init__()
            self.encoder = encoder

    def refused(self, model: Any) -> str:
        with pytest.raises(UnsupportedModel) as error:
            trimformer.prune(model, ROWS, budget=Budget(flops=0.5), calibration_tokens=None)
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_the_one_inside_is_named(self) -> None:
        encoder = tiny_model("bert", "encoder")
        assert self.refused(self.Own(encoder)).endswith("give the one in it, model.encoder")
        assert self.refused(nn.DataParallel(encoder)).endswith("give the one in it, model.module")

    def test_or_that_there_is_none(self) -> None:
        assert self.refused(nn.Linear(2, 2)).endswith("and there is none in it")
        assert "load it first, with from_pretrained" in self.refused("some/path")

    def test_outputs_that_are_no_model_output(self) -> None:
        model = tiny_model("bert")
        model.config.return_dict = False
        assert re.search(r"BertForSequenceClassification returns a tuple: it must return", self.refused(model))


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("t5", "it has an encoder and a decoder, and no architecture describes them"),
        ("vit", "it reads images or sound, and no architecture describes them"),
        ("mixtral", "its layers are mixtures of experts, and no architecture describes them"),
        ("mamba", "cannot be pruned: no architecture describes them; `trimformer list` shows the "),
        ("roberta2", "no architecture describes them; did you mean roberta?"),
    ],
)
def test_what_is_different_about_an_unknown_model_is_said(model_type: str, said: str) -> None:
    config = AutoConfig.for_model(model_type) if model_type != "roberta2" else PreTrainedConfig()
    config.model_type = model_type
    assert said in not_described(config, plugins.names("architectures"))
    assert len(not_described(config, plugins.names("architectures"))) < 220


class TestQuantized:
    @pytest.mark.filterwarnings("ignore:torch:Warning")  # deprecated, and still used
    def test_modules_of_a_quantizer_are_refused(self) -> None:
        model = torch.ao.quantization.quantize_dynamic(tiny_model("bert"), {nn.Linear}, dtype=torch.qint8)
        with pytest.raises(UnsupportedModel, match="the model is quantized: load or make it in float, prune it, then"):
            read_structure(model)

    def test_weights_that_are_not_floating_point_are_refused(self) -> None:
        model = tiny_model("bert")
        model.config.quantization_config = {"quant_method": "torchao"}
        dense = model.bert.encoder.layer[0].output.dense
        dense.weight = nn.Parameter(dense.weight.detach().to(torch.int8), requires_grad=False)
        with pytest.raises(UnsupportedModel, match="the model is quantized with torchao: load or make it in float"):
            read_structure(model)

    @pytest.mark.parametrize("uniform", [True, False])
    def test_a_dequantized_model_is_as_good_as_any(self, tmp_path: Path, *, uniform: bool) -> None:
        model = tiny_model("llama", "language model")
        gguf = pytest.importorskip("transformers.quantizers.quantizer_gguf", reason="loads GGUF files by no quantizer")
        model.config.quantization_config = transformers.utils.quantization_config.GgufConfig()
        model.hf_quantizer, model.is_quantized = gguf.GgufHfQuantizer(model.config.quantization_config), True
        budget = Budget(flops=0.5, uniform=uniform)
        result = trimformer.prune(model, ROWS, budget=budget, method="magnitude", calibration_tokens=None)
        trimformer.save(result.model, tmp_path / "small")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
        assert torch.equal(outputs(loaded, inputs(model)), outputs(result.model, inputs(model)))
        assert model.is_quantized
