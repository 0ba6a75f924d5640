"""What users of such tools reported as missing or broken, tried on tiny models of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMultipleChoice,
    BertModel,
    BertPreTrainedModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from conftest import WORDS
from trimformer import Budget, PruningResult, Sizes, TrimformerError, prune, trim_vocabulary
from trimformer.model.structure import parameter_count

TINY = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}


def encoded(count: int = 32, length: int = 12) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(5, 100, (length,), generator=generator).tolist()} for _ in range(count)]


def pruned(model: PreTrainedModel, rows: Any = None, **asked: Any) -> PruningResult:
    given = encoded() if rows is None else rows
    return prune(model.eval(), given, method="magnitude", calibration_tokens=None, progress=False, **asked)


def units(result: PruningResult) -> list[tuple[int, int]]:
    return [(block["head"], block["neuron"]) for block in result.manifest["units"]]


class TestExactSizes:
    """LLM-Shearing#67, Model-Optimizer#105, neural-compressor#525: exactly so many heads, the other units untouched."""

    def test_half_of_the_heads_and_all_neurons(self) -> None:
        model = LlamaForCausalLM(LlamaConfig(**TINY, num_attention_heads=8, num_key_value_heads=8))
        assert units(pruned(model, sizes=Sizes(heads=4))) == [(4, 64), (4, 64)]

    def test_fewer_query_heads_for_the_same_key_value_heads(self) -> None:
        model = LlamaForCausalLM(LlamaConfig(**TINY, num_attention_heads=8, num_key_value_heads=2, head_dim=4))
        small = pruned(model, sizes=Sizes(query_heads=6)).model
        assert [layer.self_attn.q_proj.out_features for layer in small.model.layers] == [24, 24]
        assert [layer.self_attn.k_proj.out_features for layer in small.model.layers] == [8, 8]

    def test_eight_of_twelve_heads_in_every_layer(self) -> None:
        model = BertModel(BertConfig(**TINY | {"hidden_size": 48}, num_attention_heads=12))
        assert units(pruned(model, sizes=Sizes(heads=8))) == [(8, 64), (8, 64)]


class TestMultipleChoice:
    """A model of several texts a row ended in raw errors, whatever form the rows had."""

    @pytest.fixture
    def model(self) -> PreTrainedModel:
        return BertForMultipleChoice(BertConfig(**TINY, num_attention_heads=4))

    @pytest.mark.parametrize("batched", [False, True])
    def test_rows_and_batches_of_choices(self, model: PreTrainedModel, *, batched: bool) -> None:
        ids = torch.tensor([row["input_ids"] for row in encoded(12)]).view(4, 3, 12)
        rows = [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids.split(2)]
        given = rows if batched else [{"input_ids": each.tolist()} for each in ids]
        assert sum(heads for heads, _ in units(pruned(model, given, budget=Budget(flops=0.5)))) < 8

    def test_rows_of_one_text_are_refused(self, model: PreTrainedModel) -> None:
        with pytest.raises(TrimformerError, match="BertForMultipleChoice"):
            pruned(model, budget=Budget(flops=0.5))


class Own(nn.Module):
    """A module of one's own around an encoder."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.encoder = BertModel(config)


class Bare(BertPreTrainedModel):
    """A model of transformers' kind that returns a tensor."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.post_init()

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **_: Any) -> Any:
        return self.bert(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Own, r"Own is no transformers model .*give the one in it, model\.encoder"),
        (lambda config: nn.DataParallel(BertModel(config)), r"give the one in it, model\.module"),
        (Bare, "Bare returns a Tensor: it must return named outputs"),
    ],
)
def test_what_is_no_pretrained_model_is_refused_in_a_sentence(make: Callable[[BertConfig], Any], said: str) -> None:
    with pytest.raises(TrimformerError, match=said):
        pruned(make(BertConfig(**TINY, num_attention_heads=4)), budget=Budget(flops=0.5))


def test_a_model_that_is_mostly_words_gets_small(tokenizer: PreTrainedTokenizerBase) -> None:
    """sentence-transformers#1331: four fifths are word embeddings, which no budget reaches; a warning says what can."""
    config = BertConfig(**TINY | {"vocab_size": len(tokenizer), "hidden_size": 64}, num_attention_heads=4)
    model = BertModel(config)
    few = trim_vocabulary(model.eval(), tokenizer, [" ".join(WORDS.split()[:4])] * 4, characters="seen")
    assert len(few.tokenizer.get_vocab()) < len(tokenizer) / 2
    assert parameter_count(few.model) < parameter_count(model)
    for words, is_told in ((4000, True), (1300, False)):  # 79 and 55 %
        large = BertModel(BertConfig(**TINY | {"vocab_size": words}, num_attention_heads=4))
        warnings = pruned(large, budget=Budget(params=0.5)).manifest["warnings"]
        assert any("word embeddings" in warning for warning in warnings) == is_told
