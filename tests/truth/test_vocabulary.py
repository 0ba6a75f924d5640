"""A trimmed model is the model that it was made of, on the texts that it was trimmed for: tokens, answers, files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trimformer import TrimformerError, trim_vocabulary
from trimformer.errors import DataError, InvalidOption, UnsupportedModel
from trimformer.model.structure import read_structure
from trimformer.pruning.preflight import mostly_words
from trimformer.vocabulary import tokenizer_file
from trimformer.vocabulary.proof import largest_difference
from trimformer.vocabulary.smaller_tokenizer import read_file
from vocabularies import KINDS, made_up_texts, model_of, saved, tokenizer_of

HEADS = (
    "BertForMaskedLM",
    "XLMRobertaForMaskedLM",
    "DistilBertForMaskedLM",
    "ElectraForMaskedLM",
    "AlbertForMaskedLM",
    "MPNetForMaskedLM",
    "MobileBertForMaskedLM",
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "BertForSequenceClassification",
    "BertForPreTraining",
    "BartForConditionalGeneration",
    "T5ForConditionalGeneration",
)
TEXTS = made_up_texts(60, 1) + made_up_texts(15, 2)
UNSEEN = [*made_up_texts(20, 3), *made_up_texts(20, 4, "greek"), "😀 ‽ ça", "日本 x"]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {kind: tokenizer_of(kind) for kind in KINDS}


def one_layer(rows: int, name: str = "BertModel", **config: Any) -> PreTrainedModel:
    return model_of(name, rows, num_hidden_layers=1, **config)


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """A text's tokens as the tokenizers library has them."""
    found: list[str] = tokenizer.backend_tokenizer.encode(text).tokens
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_texts_split_into_the_same_tokens_whichever_they_are(kind, tokenizers):
    full = tokenizers[kind]
    model = one_layer(len(full))
    everything = made_up_texts(150, 1) + made_up_texts(60, 1, "greek") + made_up_texts(60, 5, "other") + UNSEEN
    for seed in range(4):
        texts = random.Random(seed).sample(everything, 5 + 40 * seed)  # noqa: S311  # chosen texts
        trimmed = trim_vocabulary(model, full, texts)
        small = trimmed.tokenizer
        assert trimmed.facts.added_for_texts == 0
        assert len(small) < len(full)
        assert [pieces(small, text) for text in texts] == [pieces(full, text) for text in texts]
        kept = small.get_vocab()
        assert all(full.get_vocab()[token] is not None for token in kept)
        assert sorted(kept.values()) == list(range(len(kept)))


@pytest.mark.parametrize("kind", KINDS)
def test_other_texts_can_still_be_read(kind, tokenizers):
    full = tokenizers[kind]
    small = trim_vocabulary(one_layer(len(full)), full, TEXTS).tokenizer
    for text in UNSEEN:
        before, after = full(text)["input_ids"], small(text)["input_ids"]
        assert max(after) < len(small)
        assert len(after) >= len(before) or small.unk_token_id in after
        if kind in ("bytes", "byte_fallback"):
            assert small.decode(after, skip_special_tokens=True) == text
    letters = {token for token in full.get_vocab() if len(token) == 1}
    assert letters <= small.get_vocab().keys()


def test_pairs_padding_and_added_tokens_follow(tokenizers):
    for full in tokenizers.values():
        small = trim_vocabulary(one_layer(len(full)), full, TEXTS).tokenizer
        for one, both in ((full, small), (small, full)):
            assert one.convert_ids_to_tokens(one(TEXTS[0], TEXTS[1])["input_ids"]) == both.convert_ids_to_tokens(
                both(TEXTS[0], TEXTS[1])["input_ids"]
            )
        assert small.pad_token_id == full.pad_token_id == 1
        assert small.convert_tokens_to_ids("<added>") == len(small) - 1
        assert small.get_added_vocab().keys() == full.get_added_vocab().keys()
        assert small(TEXTS[:3], padding=True, return_tensors="pt")["input_ids"][:, -1].tolist().count(1) >= 1


def test_a_word_that_was_unknown_stays_so():
    """`abcd` begins with the longest token `abc`, and then nothing fits; without `abc` it would be `ab ##cd`."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "##b", "##c", "abc", "ab", "##cd", "xyz"]
    backend = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="<unk>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    full = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")  # noqa: S106
    assert full.tokenize("abcd ab acd") == ["<unk>", "ab", "a", "##cd"]
    trimmed = trim_vocabulary(one_layer(len(words)), full, ["abcd ab acd"])
    assert trimmed.tokenizer.tokenize("abcd ab acd") == ["<unk>", "ab", "a", "##cd"]
    assert "abc" in trimmed.tokenizer.get_vocab()
    assert "xyz" not in trimmed.tokenizer.get_vocab()
    assert trimmed.facts.added_for_texts == 1


def inputs(model: PreTrainedModel, batch: Any) -> dict[str, torch.Tensor]:
    """What a model reads; a decoder behind an encoder reads the same text."""
    found = {key: batch[key] for key in ("input_ids", "attention_mask")}
    return found | ({"decoder_input_ids": batch["input_ids"]} if model.config.is_encoder_decoder else {})


def test_the_penalty_of_unknown_characters_stays():
    """`x` alone is unknown, at ten below the lowest score: `pqx` is `p qx`, at -30, not `pq ?`, at -61."""
    scores = {"<unk>": 0.0, "<pad>": 0.0, "p": -15.0, "q": -15.0, "qx": -15.0, "pq": -1.0, "zz": -50.0, "qq": -2.0}
    backend = Tokenizer(models.Unigram(list(scores.items()), unk_id=0, byte_fallback=False))
    full = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")  # noqa: S106
    trimmed = trim_vocabulary(one_layer(len(scores)), full, ["pqx", "pq"]).tokenizer
    assert full.tokenize("pqx") == trimmed.tokenize("pqx") == ["p", "qx"]
    assert trimmed.get_vocab().keys() == scores.keys() - {"qq"}


def test_the_padding_token_keeps_its_id_where_positions_are_counted_from_it():
    full = tokenizer_of("unigram", pad_token=KINDS["unigram"]().id_to_token(60))
    dense = model_of("XLMRobertaForMaskedLM", len(full), pad_token_id=60, max_position_embeddings=160)
    trimmed = trim_vocabulary(dense, full, TEXTS)
    assert trimmed.tokenizer.pad_token_id == trimmed.model.config.pad_token_id == 60
    assert trimmed.facts.largest_difference == 0


@pytest.mark.parametrize("processor", [processors.TemplateProcessing, processors.RobertaProcessing])
def test_the_template_around_a_text_follows(processor):
    backend = KINDS["unigram"]()
    first, last = ((backend.id_to_token(place), place) for place in (500, 600))
    if processor is processors.TemplateProcessing:
        around = processor(single=f"{first[0]} $A {last[0]}", special_tokens=[first, last])
        backend.post_processor = processors.Sequence([around])
    else:
        backend.post_processor = processor(last, first)
    backend.enable_padding(pad_id=500, pad_token=first[0])
    full = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=first[0], unk_token="<unk>")  # noqa: S106
    assert tokenizer_file.trimmed(read_file(full), [*range(4), 500, 600])["padding"]["pad_id"] == 4
    small = trim_vocabulary(one_layer(len(full)), full, TEXTS).tokenizer
    assert pieces(small, TEXTS[0]) == pieces(full, TEXTS[0])
    assert small(TEXTS[0])["input_ids"][0] == small.convert_tokens_to_ids(first[0]) == small.pad_token_id != 500
    assert small(["a", TEXTS[0]], padding=True)["input_ids"][0][-1] == small.pad_token_id


@pytest.mark.parametrize("name", HEADS)
def test_answers_are_those_of_the_dense_model_in_the_columns_kept(name, tokenizers, tmp_path):
    full = tokenizers["unigram"]
    dense = model_of(name, len(full) + 3)
    trimmed = trim_vocabulary(dense, full, TEXTS)
    trimmed.model.save_pretrained(tmp_path)
    trimmed.tokenizer.save_pretrained(tmp_path)
    small, tokenizer = type(dense).from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert small.config.vocab_size == len(tokenizer) == len(small.get_input_embeddings().weight) < len(full)
    ours = full(TEXTS[:6], padding=True, return_tensors="pt")
    theirs = tokenizer(TEXTS[:6], padding=True, return_tensors="pt")
    columns = full.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    with torch.no_grad():
        before, after = (model(**inputs(model, batch)) for model, batch in ((dense, ours), (small.eval(), theirs)))
    for key, answer in before.items():
        if torch.is_tensor(answer):
            expected = answer[..., columns] if answer.shape[-1] == len(full) + 3 else answer
            torch.testing.assert_close(after[key], expected, atol=1e-5, rtol=0)
    output = small.get_output_embeddings()
    if output is not None:
        assert (output.weight is small.get_input_embeddings().weight) == (
            dense.get_output_embeddings().weight is dense.get_input_embeddings().weight
        )


def test_model_and_tokenizer_given_stay_as_they_are(tokenizers):
    full = tokenizers["bytes"]
    dense = model_of("GPT2LMHeadModel", len(full))
    weights = {name: values.clone() for name, values in dense.state_dict().items()}
    config, content = dense.config.to_dict(), full.backend_tokenizer.to_str()
    small = trim_vocabulary(dense, full, TEXTS).model
    small.get_input_embeddings().weight.data.zero_()
    assert dense.config.to_dict() == config
    assert full.backend_tokenizer.to_str() == content
    assert all(torch.equal(values, weights[name]) for name, values in dense.state_dict().items())


def test_ids_that_configs_name_follow(tokenizers):
    full = tokenizers["unigram"]
    seen, other = full.convert_tokens_to_ids(pieces(full, TEXTS[0])[1]), 500
    assert other not in {index for row in full(TEXTS)["input_ids"] for index in row}
    dense = model_of("LlamaForCausalLM", len(full), eos_token_id=[2, 600])
    settings = {"suppress_tokens": [seen, other], "bad_words_ids": [[seen, 3], [other]], "eos_token_id": [2, 600]}
    dense.generation_config.update(**settings)
    trimmed = trim_vocabulary(dense, full, TEXTS)

    def place(old: int) -> int:
        return int(trimmed.tokenizer.convert_tokens_to_ids(full.convert_ids_to_tokens(old)))

    generation = trimmed.model.generation_config
    assert place(seen) != seen
    assert trimmed.model.config.eos_token_id == generation.eos_token_id == [2, place(600)]
    assert generation.suppress_tokens == [place(seen)]
    assert generation.bad_words_ids == [[place(seen), 3]]
    assert dense.generation_config.suppress_tokens == [seen, other]


def test_rare_tokens_and_unseen_characters_can_go(tokenizers):
    full = tokenizers["unigram"]
    dense = one_layer(len(full))
    sizes = [
        len(trim_vocabulary(dense, full, TEXTS, minimum_count=count, characters=characters).tokenizer)
        for count, characters in ((1, "all"), (3, "all"), (3, "seen"))
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    facts = trim_vocabulary(dense, full, TEXTS, minimum_count=3, held_out=UNSEEN).facts
    assert facts.proved_texts + facts.other_texts == len(TEXTS)
    assert facts.other_texts > 0
    assert facts.held_out is not None
    assert facts.held_out.otherwise > 0
    assert facts.held_out.tokens.after > facts.held_out.tokens.before


def refusals(full: PreTrainedTokenizerBase) -> dict[str, tuple[type[TrimformerError], str, dict[str, Any]]]:
    dense = one_layer(len(full))
    return {
        "no text": (DataError, "no texts", {"texts": []}),
        "no count": (InvalidOption, "minimum_count=0", {"minimum_count": 0}),
        "no such characters": (InvalidOption, "characters=few", {"characters": "few"}),
        "slow": (UnsupportedModel, "only fast tokenizers", {"tokenizer": transformers.ByT5Tokenizer()}),
        "no row": (UnsupportedModel, "has no row", {"model": one_layer(len(full) - 1)}),
        "no such id": (UnsupportedModel, "has no row", {"model": one_layer(len(full), eos_token_id=5000)}),
        "not its vocabulary": (UnsupportedModel, "its config says 7", {"model": _claiming(dense, 7)}),
    }


def _claiming(model: PreTrainedModel, size: int) -> PreTrainedModel:
    claiming = one_layer(len(model.get_input_embeddings().weight))
    claiming.config.vocab_size = size
    return claiming


@pytest.mark.parametrize(
    "case", ["no text", "no count", "no such characters", "slow", "no row", "no such id", "not its vocabulary"]
)
def test_what_cannot_be_trimmed_is_refused_in_a_line(case, tokenizers):
    full = tokenizers["wordpiece"]
    error, says, changes = refusals(full)[case]
    given: dict[str, Any] = {"model": one_layer(len(full)), "tokenizer": full, "texts": TEXTS}
    with pytest.raises(error, match=says) as found:
        trim_vocabulary(**(given | changes))
    assert "\n" not in str(found.value)


def test_a_saved_folder_has_no_file_of_the_tokens_before(tokenizers, tmp_path):
    full = tokenizers["wordpiece"]
    folder = saved(one_layer(len(full)), full, tmp_path / "full")
    (folder / "vocab.txt").write_text("\n".join(full.get_vocab()), encoding="utf-8")
    trimmed = trim_vocabulary(one_layer(len(full)), AutoTokenizer.from_pretrained(folder), TEXTS)
    out = saved(trimmed.model, trimmed.tokenizer, tmp_path / "small")
    content = json.loads(Path(out / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(content["model"]["vocab"]) == len(trimmed.tokenizer) - 1  # one was added to the model's
    assert not (out / "vocab.txt").exists()


def test_the_proof_sees_a_model_that_answers_otherwise(tokenizers):
    full = tokenizers["unigram"]
    ids = full(TEXTS[:3])["input_ids"]
    dense, other = one_layer(len(full)), one_layer(len(full), seed=1)
    assert largest_difference((dense, dense), (full, full), (ids, ids), range(len(full))) == 0
    with pytest.raises(TrimformerError, match="answers otherwise"):
        largest_difference((dense, other), (full, full), (ids, ids), range(len(full)))


def test_where_most_parameters_are_words_pruning_says_so():
    (said,) = mostly_words(read_structure(one_layer(5000, num_key_value_heads=4)))
    assert "word embeddings" in said
    assert "trimformer vocabulary" in said
    assert mostly_words(read_structure(one_layer(50, num_key_value_heads=4))) == []
