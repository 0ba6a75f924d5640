"""Tiny models with random weights, of every architecture and with every task head: built from configs, no download.

A new architecture needs one line in `CONFIGS`; the contract tests fail with a clear message until it is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from conftest import MAX_LENGTH, asked
from trimformer.data.rows import Batch, Features
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure

VOCABULARY = 120
WIDTH = 32
HEADS_PER_BLOCK = 4
NEURONS = 24

_COMMON = {"vocab_size": VOCABULARY, "initializer_range": 0.2}
_BERT = {
    **_COMMON,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS_PER_BLOCK,
    "intermediate_size": NEURONS,
    "max_position_embeddings": MAX_LENGTH,
}
_ROBERTA = {
    **_BERT,
    "max_position_embeddings": MAX_LENGTH + 2,  # positions start after the padding id
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_DECODER = {**_COMMON, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_POSITIONS = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
"""Of encoders whose own special tokens are outside of a small vocabulary; not those that mark a decoder here."""
_LLAMA = {**_BERT, **_DECODER, "num_attention_heads": 2 * HEADS_PER_BLOCK, "num_key_value_heads": HEADS_PER_BLOCK}
_WINDOWS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
_HALF_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
_ONE_KEY = {"num_attention_heads": HEADS_PER_BLOCK, "num_key_value_heads": 1}
_FALCON = {**_BERT, **_DECODER, "ffn_hidden_size": NEURONS}
_GPT2 = {
    **_DECODER,
    "n_embd": WIDTH,
    "n_layer": 2,
    "n_head": HEADS_PER_BLOCK,
    "n_inner": NEURONS,
    "n_positions": MAX_LENGTH,
}
_OPT = {**_BERT, **_DECODER, "ffn_dim": NEURONS, "init_std": 0.2, "word_embed_proj_dim": WIDTH}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": {**_BERT, "embedding_size": 16},
    "distilbert": {
        **_COMMON,
        "dim": WIDTH,
        "n_layers": 2,
        "n_heads": HEADS_PER_BLOCK,
        "hidden_dim": NEURONS,
        "max_position_embeddings": MAX_LENGTH,
    },
    "data2vec-text": _ROBERTA,
    "ernie": _BERT,
    "rembert": {**_BERT, "input_embedding_size": 16, "output_embedding_size": 16, "bos_token_id": 1, "eos_token_id": 2},
    "roformer": {**_BERT, "embedding_size": 16},
    "roformer with rotated values": {**_BERT, "rotary_value": True},
    "layoutlm": _BERT,
    "markuplm": {**_BERT, "xpath_unit_hidden_size": 4, "max_depth": 3},
    "roc_bert": {
        **_BERT,
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": 120,
        "shape_embed_dim": 8,
        "shape_vocab_size": 120,
    },
    "splinter": _BERT,
    "bert-generation": _BERT,
    "xmod": {**_ROBERTA, "default_language": "en_XX"},
    "xmod with pre-norm": {**_ROBERTA, "default_language": "en_XX", "pre_norm": True},
    "roberta-prelayernorm": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
    "megatron-bert": _BERT,
    "esm": {**_ROBERTA, "mask_token_id": 4, "position_embedding_type": "rotary", "token_dropout": True},
    "esm with absolute positions": {**_ROBERTA, "mask_token_id": 4, "emb_layer_norm_before": True},
    "nomic_bert": _BERT,
    "gte": _BERT,
    "jina_embeddings_v3": _BERT,
    "eurobert": {**_LLAMA, **_SPECIAL, "mask_token_id": 4},
    "modernbert": {**_BERT, **_SPECIAL, "local_attention": 6, "global_attn_every_n_layers": 2},
    "mpnet": _ROBERTA,
    "deberta-v2": {**_BERT, **_POSITIONS, "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 4},
    "deberta-v2 with own projections": {**_BERT, **_POSITIONS, "max_relative_positions": 6},
    "albert": {**_BERT, "embedding_size": 16, "num_hidden_layers": 3},
    "mobilebert": {
        **_BERT,
        "hidden_size": 48,
        "intra_bottleneck_size": WIDTH,
        "embedding_size": 16,
        "num_feedforward_networks": 2,
        "initializer_range": 0.1,
    },
    "mobilebert without bottlenecks": {
        **_BERT,
        "use_bottleneck": False,
        "key_query_shared_bottleneck": False,
        "embedding_size": 16,
        "num_feedforward_networks": 1,
        "normalization_type": "layer_norm",
    },
    "big_bird": {**_BERT, "attention_type": "original_full"},
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "llama without groups": {**_LLAMA, "num_attention_heads": 4, "attention_bias": True, "mlp_bias": True},
    "mistral": {**_LLAMA, "sliding_window": 6},
    "qwen2": {**_LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {**_LLAMA, "head_dim": 8},
    "gemma": {**_LLAMA, "head_dim": 8},
    "opt": _OPT,
    "opt with post-norm": {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16},
    "gpt_neox": {**_BERT, **_DECODER, "num_attention_heads": HEADS_PER_BLOCK},
    "gpt_neox in sequence": {**_BERT, **_DECODER, "use_parallel_residual": False},
    "phi": {**_LLAMA, "qk_layernorm": True},
    "gemma with one key and value head": {**_LLAMA, "head_dim": 8, **_ONE_KEY},
    "gemma3_text with one key and value head": {**_LLAMA, **_WINDOWS, "head_dim": 8, **_ONE_KEY},
    "cohere": {**_LLAMA, "use_qk_norm": False},
    "stablelm": {**_LLAMA, **_HALF_ROTARY},
    "stablelm in parallel": {**_LLAMA, **_HALF_ROTARY, "use_parallel_residual": True, "use_qkv_bias": True},
    "olmo2": _LLAMA,
    "olmo3": {**_LLAMA, **_WINDOWS},
    "bloom": {**_BERT, **_DECODER, "n_layer": 2, "n_head": HEADS_PER_BLOCK},
    "mpt": {**_DECODER, "d_model": WIDTH, "n_layers": 2, "n_heads": HEADS_PER_BLOCK, "max_seq_len": MAX_LENGTH},
    "gpt_bigcode": _GPT2,
    "gpt_bigcode without sharing": {**_GPT2, "multi_query": False},
    "falcon": _FALCON,
    "falcon in groups": {
        **_FALCON,
        "num_attention_heads": 2 * HEADS_PER_BLOCK,
        "num_kv_heads": HEADS_PER_BLOCK,
        "new_decoder_architecture": True,
    },
    "falcon with alibi": {**_FALCON, "multi_query": False, "parallel_attn": False, "alibi": True, "bias": True},
    "qwen3_5_text": {
        **_LLAMA,
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
    "lfm2": {**_LLAMA, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "phi3": {**_LLAMA, "sliding_window": 7},
    "gemma2": {**_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5},
    "gemma3_text": {**_LLAMA, **_WINDOWS, "head_dim": 8, "query_pre_attn_scalar": 8},
    "smollm3": {**_LLAMA, "no_rope_layers": [1, 0]},
    "olmo": {**_LLAMA, "clip_qkv": 1.0},
    "helium": {**_LLAMA, "head_dim": 4},
    "seed_oss": {**_LLAMA, "head_dim": 8},
    "ministral": {**_LLAMA, **_WINDOWS, "head_dim": 8},
    "ministral3": {**_LLAMA, "head_dim": 8},
    "hunyuan_v1_dense": {**_LLAMA, "head_dim": 8},
    "ernie4_5": {**_LLAMA, "head_dim": 8, "use_bias": True},
    "vaultgemma": {**_LLAMA, **_WINDOWS, "head_dim": 8, "query_pre_attn_scalar": 8},
    "cwm": {**_LLAMA, **_WINDOWS, "head_dim": 8},
    "cohere2": {**_LLAMA, **_WINDOWS},
    "exaone4": {**_LLAMA, **_WINDOWS},
    "granite": {**_LLAMA, "residual_multiplier": 0.6, "attention_multiplier": 0.5, "embedding_multiplier": 3.0},
    "starcoder2": _LLAMA,
    "nemotron": {**_LLAMA, "hidden_act": "silu"},
    "arcee": _LLAMA,
    "apertus": _LLAMA,
    "jais2": {**_LLAMA, "head_dim": 4},
    "nanochat": _LLAMA,
    "glm": {**_LLAMA, "head_dim": 8},
    "glm4": {**_LLAMA, "head_dim": 8},
    "persimmon": {**_BERT, **_DECODER},
    "gptj": {**_GPT2, "rotary_dim": 4},
    "gpt_neo": {**_BERT, **_DECODER, "num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 5},
    "xglm": {**_BERT, **_DECODER, "num_layers": 2, "ffn_dim": NEURONS, "init_std": 0.2},
    "biogpt": {**_BERT, **_DECODER},
    "ctrl": {**_GPT2, "dff": NEURONS},
    "modernbert-decoder": {
        **_BERT,
        **_DECODER,
        **_WINDOWS,
        "cls_token_id": 3,
        "sep_token_id": 4,
        "local_attention": 10,
    },
}
"""By `model_type`, or that and a variant; 2 blocks of 4 units of heads and 24 neurons each, residual stream 32 wide."""
UNKNOWN = [name for name in CONFIGS if name.partition(" ")[0] not in CONFIG_MAPPING]
"""Those that need a newer transformers than the one that is installed."""
if transformers.__version__.startswith("5.0."):
    UNKNOWN.append("modernbert")
for each in UNKNOWN:
    del CONFIGS[each]

OTHER_UNITS = {
    **dict.fromkeys((("bloom", "neuron"), ("mpt", "neuron")), 4 * WIDTH),
    **dict.fromkeys((("olmo2", "head"), ("olmo3", "head")), 1),
}
"""Units of a kind in every block, where a tiny config cannot ask for those of the others."""
HYBRIDS = ("qwen3_5_text", "lfm2")
"""Tiny models whose first block has something else in place of attention."""


ONE_BLOCK = ("albert",)
"""Tiny models whose one block runs several times."""


def units_of(name: str) -> list[tuple[str, int, int]]:
    """The sites that a tiny model should have, bottom-up: kind of units, block, number of units."""
    usual = [("head", HEADS_PER_BLOCK), *[("neuron", NEURONS)] * CONFIGS[name].get("num_feedforward_networks", 1)]
    return [
        (kind, block, OTHER_UNITS.get((name, kind), units))
        for block in range(1 if name in ONE_BLOCK else 2)
        for kind, units in usual
        if (name in HYBRIDS, kind, block) != (True, "head", 0)
    ]


HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "encoder": ("AutoModel", {}),
    "sequence classification": ("AutoModelForSequenceClassification", {"num_labels": 3}),
    "regression": ("AutoModelForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "token classification": ("AutoModelForTokenClassification", {"num_labels": 5}),
    "question answering": ("AutoModelForQuestionAnswering", {}),
    "masked language model": ("AutoModelForMaskedLM", {}),
}
"""Of encoders, by name: the auto class and what its config needs."""
FURTHER_HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "multiple choice": ("AutoModelForMultipleChoice", {}),
    "pre-training": ("AutoModelForPreTraining", {}),
    "next sentence prediction": ("AutoModelForNextSentencePrediction", {}),
}
"""Heads of encoders that by default are tested on BERT alone."""
ALL_HEADS = {**HEADS, **FURTHER_HEADS, "language model": ("AutoModelForCausalLM", {})}


def is_causal(name: str) -> bool:
    """Whether a tiny model is a decoder."""
    return CONFIGS[name].items() >= _DECODER.items()


UNSUPPORTED = (("splinter", "pre-training"),)
"""Heads that read more than tokens: Splinter's needs its question token in every row."""


def heads_of(name: str) -> list[str]:
    """The heads that transformers has for a tiny model: language models are masked in encoders, causal in decoders."""
    config = config_of(name)
    left_out = {"masked language model", *FURTHER_HEADS} if is_causal(name) else {"language model"}
    return [
        head
        for head, (auto_class, _) in ALL_HEADS.items()
        if head not in left_out
        and (config.model_type, head) not in UNSUPPORTED
        and type(config) in getattr(transformers, auto_class)._model_mapping
    ]


def config_of(name: str, **options: Any) -> PreTrainedConfig:
    """The config of a tiny model."""
    return AutoConfig.for_model(name.partition(" ")[0], **{**CONFIGS[name], **options})


ARCHITECTURES_AND_HEADS = [(name, head) for name in CONFIGS for head in heads_of(name)]
FAMILIES = ("bert", "gpt2", "llama")
"""Tiny models that are tested with every head."""
SIBLINGS = (
    *("olmo2", "granite", "falcon in groups"),
    *("gemma with one key and value head", "cohere", "stablelm", "stablelm in parallel", "olmo3", "mpt", "phi"),
    *("gpt_bigcode without sharing", "falcon", "falcon with alibi", "lfm2", "gemma2", "gemma3_text", "smollm3", "olmo"),
    *("helium", "seed_oss", "ministral", "ministral3", "hunyuan_v1_dense", "ernie4_5", "vaultgemma", "cwm", "cohere2"),
    *("exaone4", "starcoder2", "nemotron", "arcee", "apertus", "jais2", "nanochat", "glm", "glm4", "persimmon", "gptj"),
    *("gpt_neo", "xglm", "biogpt", "ctrl", "modernbert-decoder"),
    *("data2vec-text", "ernie", "rembert", "layoutlm", "markuplm", "roc_bert", "splinter", "bert-generation"),
    *("big_bird", "xlm-roberta-xl", "megatron-bert", "esm with absolute positions", "gte", "xlm-roberta", "camembert"),
    *("electra", "roformer", "xmod", "xmod with pre-norm", "esm", "nomic_bert", "eurobert", "jina_embeddings_v3"),
    *("deberta-v2 with own projections", "mobilebert without bottlenecks", "llama without groups", "qwen2", "gemma"),
    *("mistral", "roberta-prelayernorm", "gpt_neox in sequence", "roformer with rotated values"),
)
"""Tiny models of a layout that another stands for, tested by `pytest -m slow` only."""


def pairs() -> list[Any]:
    """Cases of architecture and head: every head once a family, every further layout with one head in turn.

    All others are marked `slow`: `pytest -m slow` runs them too.
    """
    others = [name for name in CONFIGS if name not in (*FAMILIES, *SIBLINGS)]
    usual = {name: [head for head in heads_of(name) if head not in FURTHER_HEADS] for name in CONFIGS}
    turn = {name: usual[name][place % len(usual[name])] for place, name in enumerate(others)}
    chosen = {name: usual[name] for name in FAMILIES} | {name: [head] for name, head in turn.items()}
    chosen["bert"] = heads_of("bert")
    return [
        pytest.param(name, head, marks=[] if head in chosen.get(name, []) else pytest.mark.slow)
        for name, head in ARCHITECTURES_AND_HEADS
    ]


def default_names(names: Iterable[str] = CONFIGS) -> list[Any]:
    """Names of tiny models as parameters of a test, siblings marked `slow`."""
    return asked(pytest.param(name, marks=pytest.mark.slow if name in SIBLINGS else []) for name in names)


UNITS_KEPT = {"kcm": "head"}
"""By method, the kind of unit that it never removes: a budget must leave room for it."""
SHARES = {"kcm": 0.9}
"""By method, the budget in tests of something else, where half of the FLOPs is too small."""
WHOLE_LAYERS = ("shortgpt",)
"""Methods that remove whole layers only: of a budget, up to a layer's cost is left."""
SETTINGS: dict[str, dict[str, Any]] = {"dual_cp": {"lambda_": 0.32}}
"""By method, options without which it refuses models as small as these: their neurons cost less than their heads."""


def main_head(architecture: str) -> str:
    """The head of a tiny model where none is asked for: that of a classifier, if transformers has one."""
    return (
        "sequence classification" if "sequence classification" in heads_of(architecture) else heads_of(architecture)[-1]
    )


def tiny_model(architecture: str, head: str | None = None, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A tiny model in evaluation mode; further arguments go to its config. Biases are random too, not zero."""
    assert architecture in CONFIGS, (
        f"architecture {architecture!r} has no tiny config: add one to CONFIGS in tests/tiny_models.py"
    )
    auto_class, options = ALL_HEADS[head or main_head(architecture)]
    settings = config_of(architecture, **{**options, **config})
    torch.manual_seed(seed)
    model: PreTrainedModel = getattr(transformers, auto_class).from_config(settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    return model.eval()


def inputs(model: PreTrainedModel, lengths: tuple[int, ...] = (11, 4, 7), seed: int = 0) -> Batch:
    """Right-padded random tokens of some lengths, with the model's own padding id; in multiple choice two choices."""
    padding = model.config.pad_token_id or 0
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), padding)
    attention_mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
        attention_mask[row, :length] = 1
    batch = {"input_ids": ids, "attention_mask": attention_mask}
    if not type(model).__name__.endswith("ForMultipleChoice"):
        return batch
    return {name: torch.stack([values, values.roll(1, 0)], dim=1) for name, values in batch.items()}


def labelled(rows: list[Features], head: str) -> list[Features]:
    """Rows with made-up labels of the kind that a head is trained on; without, where it is trained on none."""
    given: list[Features] = []
    for index, row in enumerate(rows):
        ids = row["input_ids"]
        classes = {"token classification": 5, "pre-training": 2}
        of_tokens = [token % classes[head] for token in ids] if head in classes else ids
        kinds = {
            "encoder": {},
            "sequence classification": {"labels": index % 3},
            "regression": {"labels": index % 7 / 3},
            "multiple choice": {"labels": index % 2},
            "next sentence prediction": {"labels": index % 2},
            "question answering": {"start_positions": index % len(ids), "end_positions": len(ids) - 1},
        }
        read = [ids, ids[::-1]] if head == "multiple choice" else ids
        given.append({"input_ids": read, **kinds.get(head, {"labels": of_tokens})})
    return given


@torch.no_grad()
def outputs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """What the model predicts at tokens that are no padding, all of its output tensors in one row of numbers."""
    found = [value for value in model(**batch).values() if torch.is_tensor(value)]
    real = batch["attention_mask"].bool()
    per_token = (real.dim() == 2 and value.dim() > 1 and value.shape[:2] == real.shape for value in found)
    return torch.cat(
        [(value[real] if by_token else value).flatten() for value, by_token in zip(found, per_token, strict=True)]
    )


def random_masks(structure: Structure, keep: float = 0.5, seed: int = 0) -> Masks:
    """Every unit stays with probability `keep`; at least one does in every site that has any."""
    generator = torch.Generator().manual_seed(seed)
    masks = {site.name: torch.rand(site.units, generator=generator) < keep for site in structure}
    for mask in masks.values():
        mask[:1] = True
    return masks


def parameters_by_name(model: PreTrainedModel) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
