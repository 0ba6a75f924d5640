"""Trains two small decoders on plain English to prune: GPT-2's layout, and Llama's with grouped key and value heads.

    python benchmarks/train_decoders.py OUT --preset gpu
    trimformer prune OUT/llama --task language_modeling --data OUT/text --flops 0.6 --out smaller

OUT gets `gpt2`, `llama` (checkpoints with a byte-level BPE tokenizer made on the same text), `text` (train and test
file; the last 5 % of the lines are held out, and the first 500,000 characters of these are the test file), and
`perplexity.json`: on that test file, and on WikiText-2's and PTB's where `../shared` has them. The text is
`../shared/data/lm/english/train.txt`, or `--text`. Presets: `gpu` (minutes on one GPU), `cpu` (about 20 minutes of one
core a model), `smoke` (seconds, learns little). `benchmarks/decoders.yaml` and `decoders-own.yaml` prune
both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

import trimformer
from trimformer import plugins
from trimformer.model.folders import write_text

LM = Path(__file__).parents[2] / "shared" / "data" / "lm"
TEXT = LM / "english" / "train.txt"
BENCHMARKS = ("wikitext2", "ptb")
TEST_SHARE = 0.05
TEST_CHARACTERS = 500_000
END = "<|endoftext|>"
DROPOUT = 0.1


@dataclass(frozen=True)
class Preset:
    """Sizes of both models, and how long they learn."""

    vocabulary: int
    width: int
    blocks: int
    heads: int
    key_value_heads: int
    context: int
    batch: int
    steps: int
    learning_rate: float


PRESETS = {
    "gpu": Preset(8192, 384, 8, 8, 4, context=256, batch=64, steps=2000, learning_rate=1e-3),
    "cpu": Preset(4096, 192, 4, 8, 4, context=128, batch=32, steps=1200, learning_rate=2e-3),
    "smoke": Preset(512, 32, 2, 4, 2, context=32, batch=8, steps=5, learning_rate=1e-3),
}


def main() -> None:
    """Parse, train, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder to make")
    parser.add_argument("--preset", choices=PRESETS, default="gpu")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--models", nargs="+", choices=BUILDERS, default=list(BUILDERS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    preset = PRESETS[given.preset]
    folder = split_text(given.text, given.out / "text", short=given.preset == "smoke")
    tokenizer = make_tokenizer(folder / "train.txt", preset)
    rows = Dataset.from_list(windows(folder, tokenizer, preset.context))
    for name in given.models:
        set_seed(given.seed)
        model: Any = BUILDERS[name](preset)
        with tempfile.TemporaryDirectory() as scratch:
            train(model, tokenizer, rows, preset, scratch, given.seed)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        trimformer.save(model, given.out / name, tokenizer=tokenizer, overwrite=True)
        record(given.out / "perplexity.json", name, perplexities(model, tokenizer, folder))


def perplexities(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> dict[str, Any]:
    """On the test file of the model's own text, and of the benchmarks that are there."""
    texts = {"language_modeling": folder} | {name: LM / name for name in BENCHMARKS if (LM / name).exists()}
    found = {name: trimformer.evaluate(model, tokenizer, name, str(text)) for name, text in texts.items()}
    return {name: asdict(metrics["perplexity"]) for name, metrics in found.items()}


def record(file: Path, name: str, results: dict[str, Any]) -> None:
    """Add a model's results to those of the models trained before."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_text(json.dumps(known | {name: results}, indent=2) + "\n", file)
    for text, metric in results.items():
        print(f"{name}, {text}: perplexity {metric['value']:.2f} [{metric['low']:.2f}, {metric['high']:.2f}]")


def split_text(source: Path, folder: Path, *, short: bool) -> Path:
    """Write the first lines to `train.txt`, and as much of the last ones as judges well to `test.txt`."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = lines[:500] if short else lines
    cut = len(lines) - round(TEST_SHARE * len(lines))
    folder.mkdir(parents=True, exist_ok=True)
    write_text("".join(lines[:cut]), folder / "train.txt")
    write_text("".join(lines[cut:])[:TEST_CHARACTERS], folder / "test.txt")
    return folder


def make_tokenizer(text: Path, preset: Preset) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned on the text; one token both ends and pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train(
        [str(text)],
        trainers.BpeTrainer(
            vocab_size=preset.vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, model_max_length=preset.context, padding_side="left"
    )


def windows(folder: Path, tokenizer: PreTrainedTokenizerFast, length: int) -> list[dict[str, list[int]]]:
    """The training text as windows of equal length, as the task cuts them for calibration."""
    task = plugins.load("tasks", "language_modeling")
    encoded = task.encode(task.rows(str(folder), "train"), tokenizer, length)
    return [{"input_ids": row["input_ids"]} for row in encoded if len(row["input_ids"]) == length]


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: Dataset, preset: Preset, scratch: str, seed: int
) -> None:
    """Next-token prediction with AdamW and a cosine schedule; in bfloat16 on a GPU."""
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=scratch,
        seed=seed,
        max_steps=preset.steps,
        learning_rate=preset.learning_rate,
        per_device_train_batch_size=preset.batch,
        lr_scheduler_type="cosine",
        warmup_steps=preset.steps // 20,
        weight_decay=0.1,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        save_strategy="no",
        report_to=[],
        logging_steps=max(1, preset.steps // 20),
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    Trainer(model, arguments, train_dataset=rows, data_collator=collator).train()
    model.config.use_cache = True


def gpt2(preset: Preset) -> PreTrainedModel:
    """GPT-2: learned positions, fused query, key and value, biases, tied embeddings."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=preset.vocabulary,
            n_embd=preset.width,
            n_layer=preset.blocks,
            n_head=preset.heads,
            n_positions=preset.context,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            embd_pdrop=DROPOUT,
            resid_pdrop=DROPOUT,
            attn_pdrop=DROPOUT,
        )
    )


def llama(preset: Preset) -> PreTrainedModel:
    """Llama: rotary positions, two query heads for each key and value head, gated feed-forward, no biases."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=preset.vocabulary,
            hidden_size=preset.width,
            num_hidden_layers=preset.blocks,
            num_attention_heads=preset.heads,
            num_key_value_heads=preset.key_value_heads,
            intermediate_size=preset.width * 8 // 3,
            max_position_embeddings=preset.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            attention_dropout=DROPOUT,
        )
    )


BUILDERS = {"gpt2": gpt2, "llama": llama}

if __name__ == "__main__":
    main()
