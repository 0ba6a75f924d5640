"""Small tokenizers of every kind, trained on the spot, and tiny models that read them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
LETTERS = {
    "latin": "abcdefghijklmnopqrstuvwxyzäéß",
    "greek": "αβγδεζηθικλμνξοπρστυφχψω",  # Greek letters
    "other": "日本語中文字漢한국어",
}


def made_up_texts(count: int, seed: int, script: str = "latin", words: int = 150) -> list[str]:
    """Texts of made-up words of one script, a few of them frequent, with digits and punctuation."""
    choice = random.Random(f"{seed} {script}")  # noqa: S311  # made-up words
    known = ["".join(choice.choices(LETTERS[script], k=choice.randint(1, 9))) for _ in range(words)]
    weights = [1 / (rank + 1) for rank in range(words)]
    ends = [".", "!", "?", " 12", ", 7.", ""]
    return [
        " ".join(choice.choices(known, weights, k=choice.randint(1, 14))) + choice.choice(ends) for _ in range(count)
    ]


def corpus() -> list[str]:
    """Texts of three scripts, to train tokenizers on."""
    return [text for script in LETTERS for text in made_up_texts(400, 1, script)]


def _template(first: str = "<s>", last: str = "</s>", places: tuple[int, int] = (0, 2)) -> Any:
    return processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[(first, places[0]), (last, places[1])],
    )


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))  # noqa: S106  # no password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=900, special_tokens=SPECIAL))
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def _bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=1200, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), _template()])
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """As Llama's: spaces are marks, the whole text is one word, what has no token is bytes."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=900, limit_alphabet=60))
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: place for place, piece in enumerate([*pieces, *learned.get_vocab()])}
    merges = [tuple(pair) for pair in _content(learned)["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = _template()
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        corpus(),
        trainers.UnigramTrainer(vocab_size=900, special_tokens=SPECIAL, unk_token="<unk>"),  # noqa: S106
    )
    tokenizer.post_processor = _template()
    return tokenizer


def _content(tokenizer: Tokenizer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    return found


KINDS = {"wordpiece": _wordpiece, "bytes": _bytes, "byte_fallback": _byte_fallback, "unigram": _unigram}


def tokenizer_of(kind: str, **options: Any) -> PreTrainedTokenizerBase:
    """A tokenizer of one kind, with a token added at its end."""
    backend = KINDS[kind]()
    backend.add_tokens([AddedToken("<added>", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **(NAMED | options))


def model_of(name: str, rows: int, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A tiny model of a class by name, with so many word embeddings, and random weights and biases."""
    torch.manual_seed(seed)
    model_class = getattr(transformers, name)
    sizes = {
        "vocab_size": rows,
        "hidden_size": 32,
        "embedding_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 80,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "cls_token_id": 0,
    }
    model = model_class(model_class.config_class(**(sizes | config))).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def saved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """A checkpoint folder of both."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
