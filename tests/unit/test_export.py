"""What is written as ONNX computes what PyTorch does, whatever was cut; and what cannot be written is named."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conftest import MAX_LENGTH, TinyBert, build_tokenizer
from tiny_models import CONFIGS, heads_of, inputs, is_causal, random_masks, tiny_model
from trimformer.data.encoding import encode_texts
from trimformer.errors import CheckpointError, InvalidOption, NumericalError, UnsupportedModel
from trimformer.export.folder import CHECK_TEXTS, FACTS, LIMIT, compare, evenly_chosen, export
from trimformer.export.onnx.graph import OPSET, to_onnx
from trimformer.export.onnx.model import FLOAT, INT8, OnnxModel, require_onnx
from trimformer.model.pooling import Dense, Normalize, Pooling
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import cut

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed: pip install 'trimformer[onnx]'")


ENCODERS = [name for name in CONFIGS if not is_causal(name)]
EXPORTED = ("bert",)
"""The encoder that is exported by default; the slow tests export all of them."""
SHAPES = ((11, 4, 7), (1,), (5, 5), (MAX_LENGTH - 2, 3))
"""Lengths of the rows of a batch."""
INPUTS = ("input_ids", "attention_mask")


def uneven_and_empty(structure: Structure) -> Masks:
    """No heads in block 0, no neurons in block 1, some of the others."""
    emptied = {site.name for site in structure if (site.kind, site.block) in (("head", 0), ("neuron", 1))}
    return {name: mask & (name not in emptied) for name, mask in random_masks(structure, 0.4).items()}


def nothing(structure: Structure) -> Masks:
    return {name: torch.zeros_like(mask) for name, mask in structure.full_masks().items()}


def cut_model(
    architecture: str, head: str = "sequence classification", choose: Callable[[Structure], Masks] = uneven_and_empty
) -> PreTrainedModel:
    structure = read_structure(tiny_model(architecture, head if head in heads_of(architecture) else None))
    cut(structure, choose(structure))
    return structure.model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exports each model once."""

    @cache
    def write(architecture: str, head: str, choose: Callable[..., Masks], pooling: Pooling | None) -> Path:
        file = tmp_path_factory.mktemp("export") / FLOAT
        to_onnx(cut_model(architecture, head, choose), file, INPUTS, pooling)
        return file

    return lambda architecture, head="sequence classification", choose=uneven_and_empty, pooling=None: write(
        architecture, head, choose, pooling
    )


def operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def assert_same(model: PreTrainedModel, file: Path, pooling: Pooling | None = None) -> None:
    batches = [inputs(model, lengths) for lengths in SHAPES]
    assert compare(model, OnnxModel(file, model.config), batches, pooling)["max_difference"] < 1e-5


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=[] if name in EXPORTED else pytest.mark.slow) for name in ENCODERS]
)
def test_every_encoder_uneven_and_with_empty_sublayers(architecture: str, written: Callable[..., Path]) -> None:
    assert_same(cut_model(architecture), written(architecture))


@pytest.mark.parametrize(
    "head",
    [
        "encoder",
        pytest.param("token classification", marks=pytest.mark.slow),
        pytest.param("question answering", marks=pytest.mark.slow),
        pytest.param("masked language model", marks=pytest.mark.slow),
    ],
)
def test_every_head(head: str, written: Callable[..., Path]) -> None:
    model = cut_model("bert", head)
    file = written("bert", head)
    assert_same(model, file)
    assert OnnxModel(file, model.config).outputs == list(model(**inputs(model)))


@pytest.mark.parametrize("choose", [pytest.param(Structure.full_masks, marks=pytest.mark.slow), nothing])
def test_dense_and_with_nothing_left(choose: Callable[[Structure], Masks], written: Callable[..., Path]) -> None:
    assert_same(cut_model("bert", choose=choose), written("bert", choose=choose))


@pytest.mark.parametrize(
    ("choose", "products", "attentions", "feed_forwards"),
    [
        pytest.param(Structure.full_masks, 16, 2, 2, marks=pytest.mark.slow),
        (uneven_and_empty, 8, 1, 1),
        (nothing, 0, 0, 0),
    ],
)
def test_nothing_is_left_of_an_empty_sublayer(
    choose: Callable[[Structure], Masks],
    products: int,
    attentions: int,
    feed_forwards: int,
    written: Callable[..., Path],
) -> None:
    found = operators(written("bert", choose=choose))
    assert (found["MatMul"], found["Softmax"], found["Gelu"]) == (products, attentions, feed_forwards)


def test_the_graph_says_its_opset_and_what_may_vary(written: Callable[..., Path]) -> None:
    proto = onnx.load(written("bert"))
    onnx.checker.check_model(proto)
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", OPSET)]
    axes = {
        each.name: [axis.dim_param or axis.dim_value for axis in each.type.tensor_type.shape.dim]
        for each in [*proto.graph.input, *proto.graph.output]
    }
    assert axes == {"input_ids": ["batch", "length"], "attention_mask": ["batch", "length"], "logits": ["batch", 3]}
    assert not proto.graph.value_info


def test_the_model_stays_as_it_is(tmp_path: Path) -> None:
    model = cut_model("distilbert").train()
    modules, before = dict(model.named_modules()), copy.deepcopy(model.state_dict())
    attention = model.config._attn_implementation
    to_onnx(model, tmp_path / FLOAT, INPUTS)
    assert dict(model.named_modules()) == modules
    assert model.training
    assert model.config._attn_implementation == attention
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


@pytest.mark.slow
def test_token_types_that_are_not_given_are_zero(tmp_path: Path) -> None:
    model = tiny_model("bert")
    to_onnx(model, tmp_path / FLOAT, [*INPUTS, "token_type_ids"])
    exported, batch = OnnxModel(tmp_path / FLOAT, model.config), inputs(model)
    ones = batch | {"token_type_ids": batch["attention_mask"]}
    with torch.no_grad():
        torch.testing.assert_close(exported(**batch)["logits"], model(**batch).logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(exported(**ones)["logits"], model(**ones).logits, atol=1e-5, rtol=0)
    assert not torch.allclose(exported(**ones)["logits"], exported(**batch)["logits"], atol=1e-3)


class DataDependent(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden if hidden.sum() > 0 else -hidden


class NoSuchOperator(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return torch.special.bessel_j0(hidden)


class TestRefused:
    @pytest.mark.parametrize(
        ("activation", "said"),
        [(DataDependent(), "data-dependent"), pytest.param(NoSuchOperator(), "bessel_j0", marks=pytest.mark.slow)],
    )
    def test_an_operator_is_named_with_its_site(self, activation: nn.Module, said: str, tmp_path: Path) -> None:
        model = tiny_model("bert")
        model.bert.encoder.layer[1].intermediate.intermediate_act_fn = activation
        with pytest.raises(
            UnsupportedModel, match=r"site encoder\.layer\.1\.ffn .*cannot be exported to ONNX"
        ) as error:
            to_onnx(model, tmp_path / FLOAT, INPUTS)
        assert said in str(error.value)
        assert "\n" not in str(error.value)

    def test_decoders(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedModel, match="gpt2 is a decoder"):
            to_onnx(tiny_model("gpt2", "language model"), tmp_path / FLOAT, INPUTS)

    def test_a_missing_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(InvalidOption, match=r"ONNX needs onnxruntime, .* pip install 'trimformer\[onnx\]'"):
            require_onnx()

    def test_a_device_that_onnxruntime_has_not(self, written: Callable[..., Path]) -> None:
        with pytest.raises(InvalidOption, match="no CUDAExecutionProvider here"):
            OnnxModel(written("bert"), None, "cuda")

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / FLOAT).write_text("not a graph")
        with pytest.raises(CheckpointError, match="cannot be read by ONNX Runtime"):
            OnnxModel(tmp_path / FLOAT, None)


class TestExport:
    @pytest.fixture
    def model(self, tiny_bert: TinyBert) -> PreTrainedModel:
        return tiny_bert()

    @pytest.fixture
    def features(self, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, list[int]]]:
        return list(encode_texts([CHECK_TEXTS], tokenizer))

    def test_a_folder_with_everything(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, features: list, tmp_path: Path
    ) -> None:
        facts = export(model, tokenizer, tmp_path / "out", features, int8=True, facts={"source": "here"})
        files = {file.name for file in (tmp_path / "out").iterdir()}
        assert files == {FLOAT, INT8, FACTS, "config.json", "tokenizer.json", "tokenizer_config.json"}
        assert json.loads((tmp_path / "out" / FACTS).read_text()) == facts
        assert facts["opset"] == OPSET
        assert facts["files"][FLOAT]["max_difference"] < LIMIT < facts["files"][INT8]["max_difference"] < 1
        assert facts["files"][FLOAT]["compared_rows"] == len(CHECK_TEXTS)
        assert facts["inputs"] == [*INPUTS, "token_type_ids"]
        assert {"torch", "onnx", "onnxruntime", "onnxscript"} <= set(facts["versions"])
        assert operators(tmp_path / "out" / INT8)["MatMulInteger"] == 12

    def test_what_differs_is_not_written(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        features: list,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("trimformer.export.folder.LIMIT", 1e-12)
        with pytest.raises(NumericalError, match=r"differ by .* more than 1e-12"):
            export(model, tokenizer, tmp_path / "out", features)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("place", [0, -1])
    def test_a_number_that_is_none_is_a_difference(self, place: int, model: PreTrainedModel, features: list) -> None:
        def exported(**batch: torch.Tensor) -> dict[str, torch.Tensor]:
            found = dict(model(**batch))
            found["logits"] = found["logits"].clone()
            found["logits"].flatten()[place] = torch.nan
            return found

        batches = [{name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask")} for row in features]
        assert math.isnan(compare(model, exported, batches)["max_difference"])  # type: ignore[arg-type]

    def test_other_folders_are_not_replaced(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, features: list, tmp_path: Path
    ) -> None:
        model.save_pretrained(tmp_path / "checkpoint")
        with pytest.raises(CheckpointError, match="exists: choose another folder"):
            export(model, tokenizer, tmp_path / "checkpoint", features)
        with pytest.raises(CheckpointError, match="not replaced"):
            export(model, tokenizer, tmp_path / "checkpoint", features, overwrite=True)


@pytest.mark.parametrize(
    "modes",
    [
        ("max", "weightedmean"),
        *(pytest.param((mode,), marks=pytest.mark.slow) for mode in ("mean", "cls", "lasttoken")),
    ],
)
def test_pooling_in_the_graph(modes: tuple[str, ...], written: Callable[..., Path]) -> None:
    model = cut_model("bert", "encoder")
    width = model.config.hidden_size * len(modes)
    weight = torch.randn(6, width, generator=torch.Generator().manual_seed(0))
    pooling = Pooling(modes, (Dense(weight, torch.ones(6), torch.nn.Tanh()), Normalize()))
    file = written("bert", "encoder", pooling=pooling)
    assert_same(model, file, pooling)
    batch = inputs(model)
    exported = OnnxModel(file, model.config)(**batch)
    assert list(exported) == ["last_hidden_state", "embedding"]
    alone = {name: values[1:2, :4] for name, values in batch.items()}
    with torch.no_grad():
        expected = pooling(model(**alone).last_hidden_state, alone["attention_mask"])[0]
    torch.testing.assert_close(exported["embedding"][1], expected, atol=1e-5, rtol=0)


def test_spread_takes_rows_from_everywhere() -> None:
    rows = [{"input_ids": [number]} for number in range(200)]
    taken = [row["input_ids"][0] for row in evenly_chosen(rows)]
    assert len(taken) == 64
    assert taken[:3] == [0, 3, 6]
    assert evenly_chosen(rows[:5]) == rows[:5]


def test_the_tokenizer_for_the_check_texts_is_the_users_own() -> None:
    lengths = [len(row["input_ids"]) for row in encode_texts([CHECK_TEXTS], build_tokenizer())]
    assert len(set(lengths)) > 2
