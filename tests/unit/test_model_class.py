"""A pruned model is its class: whatever transformers finds by a dense model's class, it finds for the pruned one."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Cache,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.cache_utils import QuantizedLayer

from tiny_models import inputs, outputs, random_masks, tiny_model
from trimformer.model.structure import read_structure
from trimformer.model.surgery import cut
from trimformer.model.trimformer_modules import BiasOnly

CASES = {"bert": "sequence classification", "llama": "language model", "gpt2": "language model"}
AUTO = {"bert": AutoModelForSequenceClassification, "llama": AutoModelForCausalLM, "gpt2": AutoModelForCausalLM}
EMPTY = {("head", 0), ("neuron", 1)}


def pruned(architecture: str, head: str | None = None) -> PreTrainedModel:
    """Uneven, the first attention and the second FFN empty; attention as eager products, which give their matrices."""
    model = tiny_model(architecture, head or CASES[architecture], num_hidden_layers=3, attn_implementation="eager")
    structure = read_structure(model)
    masks = random_masks(structure)
    cut(structure, {site.name: masks[site.name] & ((site.kind, site.block) not in EMPTY) for site in structure})
    return model


def pickled(model: PreTrainedModel, _: Path) -> PreTrainedModel:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def reloaded(model: PreTrainedModel, folder: Path, **settings: object) -> PreTrainedModel:
    model.save_pretrained(folder)
    return AUTO[model.config.model_type].from_pretrained(folder, attn_implementation="eager", **settings)


WAYS: dict[str, Callable[[PreTrainedModel, Path], PreTrainedModel]] = {
    "as it was cut": lambda model, _: model,
    "copied": lambda model, _: copy.deepcopy(model),
    "pickled": pickled,
    "loaded": reloaded,
    "loaded by its own file": lambda model, folder: reloaded(model, folder, trust_remote_code=True),
    "loaded twice": lambda model, folder: reloaded(reloaded(model, folder / "1"), folder / "2"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("architecture", CASES)
def test_it_is_of_its_class_and_records_every_layer(architecture: str, way: str, tmp_path: Path) -> None:
    small = pruned(architecture)
    expected = outputs(small, inputs(small))
    model = WAYS[way](small, tmp_path).eval()
    assert type(model) is type(tiny_model(architecture, CASES[architecture]))
    with torch.no_grad():
        seen = model(**inputs(model), output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(outputs(model, inputs(model)), expected)
    heads = [site.units * site.query_heads for site in read_structure(model) if site.kind == "head"]
    assert len(seen.hidden_states) == 4
    assert heads[0] == 0
    assert [matrices.shape for matrices in seen.attentions] == [(3, count, 11, 11) for count in heads]


def test_attention_that_gives_no_matrices_gives_none_where_it_is_empty_either() -> None:
    model = pruned("llama", "encoder")
    model.set_attn_implementation("sdpa")
    assert model(**inputs(model)).last_hidden_state.shape[-1] == 32
    assert model.layers[0].self_attn(torch.zeros(1, 3, 32))[1] is None


@pytest.mark.parametrize("architecture", CASES)
class TestNoWeightsOfSizeZero:
    """What is left of a sublayer without units is a bias, which every library can read, move, save and quantize."""

    def test_none_is_there(self, architecture: str, tmp_path: Path) -> None:
        for model in (pruned(architecture), reloaded(pruned(architecture), tmp_path)):
            assert all(values.numel() for values in model.state_dict().values())

    @pytest.mark.filterwarnings("ignore:torch:DeprecationWarning", "ignore:torch:UserWarning")  # that it will go
    def test_dynamic_int8_keeps_the_biases(self, architecture: str) -> None:
        model = pruned(architecture)
        small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        empty = [path for path, module in model.named_modules() if isinstance(module, BiasOnly) and module.out_features]
        assert len(empty) == 2
        nothing = torch.zeros(1, 2, 0)
        for path in empty:
            torch.testing.assert_close(small.get_submodule(path)(nothing), model.get_submodule(path)(nothing))
        expected, found = outputs(model, inputs(model)), outputs(small, inputs(model))
        assert torch.corrcoef(torch.stack([expected, found]))[0, 1] > 0.99

    def test_accelerate_saves_and_reads_its_state(self, architecture: str, tmp_path: Path) -> None:
        model = pruned(architecture)
        expected = outputs(model, inputs(model))
        AcceleratorState._reset_state()  # a process has one, perhaps of an earlier training in half precision
        accelerator = accelerate.Accelerator(cpu=True)
        prepared = accelerator.prepare(model)
        accelerator.save_state(tmp_path)
        with torch.no_grad():
            for parameter in prepared.parameters():
                parameter.zero_()
        accelerator.load_state(tmp_path)
        torch.testing.assert_close(outputs(prepared, inputs(model)), expected)

    def test_accelerate_dispatches_it(self, architecture: str, tmp_path: Path) -> None:
        model = pruned(architecture)
        expected, tied = outputs(model, inputs(model)), accelerate.utils.find_tied_parameters(model)
        assert tied == accelerate.utils.find_tied_parameters(tiny_model(architecture, CASES[architecture]))
        accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
        torch.testing.assert_close(outputs(model, inputs(model)), expected)


@pytest.mark.parametrize("architecture", CASES)
class TestBuiltFromItsConfig:
    """`from_config` gives the pruned sizes, and whatever builds a model before it reads the weights gets them."""

    @pytest.mark.parametrize("trusts", [False, True], ids=["by the package", "its own file trusted"])
    def test_new_weights_have_its_sizes_and_can_be_saved(self, architecture: str, trusts: bool, tmp_path: Path) -> None:
        small = pruned(architecture)
        small.save_pretrained(tmp_path / "small")
        config = AutoConfig.from_pretrained(tmp_path / "small")
        new = AUTO[architecture].from_config(config, trust_remote_code=trusts).eval()
        assert type(new) is type(small)
        assert shapes(new) == shapes(small)
        assert all(values.isfinite().all() for values in new.state_dict().values())
        new.save_pretrained(tmp_path / "new")
        again = AUTO[architecture].from_pretrained(tmp_path / "new").eval()
        torch.testing.assert_close(outputs(again, inputs(again)), outputs(new, inputs(new)))

    def test_accelerate_builds_it_empty_and_reads_the_weights(self, architecture: str, tmp_path: Path) -> None:
        small = pruned(architecture)
        small.save_pretrained(tmp_path)
        with accelerate.init_empty_weights():
            empty = AUTO[architecture].from_config(small.config)
        empty.tie_weights()
        model = accelerate.load_checkpoint_and_dispatch(empty, str(tmp_path), device_map={"": "cpu"}).eval()
        torch.testing.assert_close(outputs(model, inputs(model)), outputs(small, inputs(small)))

    def test_from_pretrained_takes_the_config_of_a_model(self, architecture: str, tmp_path: Path) -> None:
        small = pruned(architecture)
        small.save_pretrained(tmp_path)
        model = type(small).from_pretrained(tmp_path, config=small.config).eval()
        torch.testing.assert_close(outputs(model, inputs(model)), outputs(small, inputs(small)))
        assert shapes(type(small).from_pretrained(tmp_path, config=model.config)) == shapes(small)

    def test_a_dense_config_builds_a_dense_model(self, architecture: str) -> None:
        dense = tiny_model(architecture, CASES[architecture])
        assert shapes(AUTO[architecture].from_config(dense.config)) == shapes(dense)


def shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: values.shape for name, values in model.state_dict().items()}


class Unrounded(QuantizedLayer):
    """A layer of a quantized cache whose numbers stay as they are: what it holds apart from them is the same."""

    def _quantize(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        return tensor

    def _dequantize(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
class TestCaches:
    """Caches of every kind hold what uneven layers give them, or are refused with a sentence."""

    @pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # its name before 5.24
    def test_a_quantized_cache(self, architecture: str) -> None:
        model, ids = pruned(architecture), torch.tensor([[5, 9, 21, 33, 7]])
        settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
        cache = Cache(layers=[Unrounded(residual_length=3) for _ in range(3)])
        assert torch.equal(
            model.generate(ids, past_key_values=cache, **settings), model.generate(ids, use_cache=False, **settings)
        )
        assert cache.get_seq_length() == 12

    def test_continuous_batching_is_refused_where_layers_differ(self, architecture: str, tmp_path: Path) -> None:
        for model in (
            pruned(architecture),
            copy.deepcopy(pruned(architecture)),
            reloaded(pruned(architecture), tmp_path),
        ):
            with pytest.raises(ValueError, match="layers of a pruned model differ: use generate"):
                model.generate_batch([[5, 9, 21], [8, 6]], max_new_tokens=3)

    @pytest.mark.slow
    def test_continuous_batching_works_where_attention_is_whole_or_gone(self, architecture: str) -> None:
        model = tiny_model(architecture, "language model", num_hidden_layers=3, attn_implementation="sdpa")
        structure = read_structure(model)
        masks = structure.full_masks() | {site.name: torch.zeros(site.units).bool() for site in structure.sites[:2]}
        cut(structure, masks)
        settings = GenerationConfig(max_new_tokens=5, min_new_tokens=5, do_sample=False, eos_token_id=2, pad_token_id=0)
        ids = [5, 9, 21]
        found = model.generate_batch([ids], generation_config=settings)
        expected = model.generate(torch.tensor([ids]), generation_config=settings)[0, 3:].tolist()
        assert [result.generated_tokens for result in found.values()] == [expected]


def test_a_class_that_builds_its_base_by_from_config(tmp_path: Path) -> None:
    small = pruned("llama", "sequence classification")
    small.save_pretrained(tmp_path)
    loaded = type(small).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs(loaded, inputs(small)), outputs(small, inputs(small)))
    assert shapes(AutoModelForSequenceClassification.from_config(loaded.config)) == shapes(small)


@pytest.mark.parametrize("architecture", CASES)
def test_every_weight_has_a_gradient_so_that_parallel_training_finds_it(architecture: str) -> None:
    model = pruned(architecture)
    sum(values.sum() for values in model(**inputs(model)).values() if torch.is_tensor(values)).backward()
    used = {name for name, values in model.named_parameters() if values.grad is None}
    dense = tiny_model(architecture, CASES[architecture])
    sum(values.sum() for values in dense(**inputs(dense)).values() if torch.is_tensor(values)).backward()
    assert used <= {name for name, values in dense.named_parameters() if values.grad is None}
