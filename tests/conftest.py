"""Shared by all tests: a small tokenizer and tiny models, built from nothing, offline and seeded."""

from __future__ import annotations

import gc
import signal
import string
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

pytest_plugins = ["commands"]

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
WORDS = "the a of is was in where what who red blue green old new big small cat dog house tree river city built saw"
CHARACTERS = string.ascii_lowercase + string.digits
MAX_LENGTH = 64
CODE_OF_CHECKPOINTS = "transformers_modules"

torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other


_TESTS = count()
_LEFT_OUT: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    """Learn whether slow cases are left out, before any is made."""
    if "not slow" in config.option.markexpr:
        _LEFT_OUT.add("slow")


def asked(cases: Iterable[Any]) -> list[Any]:
    """Leave the slow ones out of thousands of cases, if they are not asked for: making each takes a millisecond."""
    return [case for case in cases if not _LEFT_OUT & {mark.name for mark in getattr(case, "marks", ())}]


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end: the libraries, and the tests themselves.

    The Trainer has it go through everything before and after each training, a fifth of a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache; each has its own, a folder that is made when it is written to."""
    monkeypatch.setenv("TRIMFORMER_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{next(_TESTS)}"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGHUP end what runs, even where the tests were started in the background or by nohup."""
    before = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL))
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Code of checkpoints is copied to a folder of the test's own, and none of it stays imported.

    Python would look for all later code of checkpoints in the first folder that it found any in.
    """
    outer = {name: sys.modules[name] for name in sys.modules if name.partition(".")[0] == CODE_OF_CHECKPOINTS}
    for name in outer:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == CODE_OF_CHECKPOINTS]:
        del sys.modules[name]
    sys.modules.update(outer)


TinyBert = Callable[..., PreTrainedModel]


def build_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    """A lower-case WordPiece tokenizer that knows a few words and spells all others."""
    pieces = [*SPECIAL.values(), *WORDS.split(), *CHARACTERS, *(f"##{letter}" for letter in CHARACTERS), *".,?!'-"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    settings = {
        "model_max_length": MAX_LENGTH,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **SPECIAL,
        **options,
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    """The small tokenizer: `model_max_length` 64, right padding, token types."""
    return build_tokenizer()


@pytest.fixture
def tiny_bert(tokenizer: PreTrainedTokenizerBase) -> TinyBert:
    """A factory of tiny BERT models with random weights: `tiny_bert("QuestionAnswering", num_hidden_layers=3)`.

    `head` is the part of the class name after `BertFor`; None builds the bare encoder. Further arguments go to the
    config; `seed` chooses the weights.
    """

    def build(head: str | None = "SequenceClassification", *, seed: int = 0, **config: Any) -> PreTrainedModel:
        sizes = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": MAX_LENGTH,
            "initializer_range": 0.2,
        }
        torch.manual_seed(seed)
        model_class = getattr(transformers, f"BertFor{head}" if head else "BertModel")
        return model_class(transformers.BertConfig(**{**sizes, **config})).eval()

    return build
