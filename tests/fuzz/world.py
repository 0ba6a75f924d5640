"""A small world of whole files, and for each kind of file the commands that read it."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import torch
import transformers

from commands import execute, rows, write
from conftest import build_tokenizer
from fuzz import mutate
from fuzz.mutate import Mutate
from trimformer.model import checkpoint

PRUNE = "prune model --task sst2 --data rows --calibration-tokens 150 --max-length 32 --out out --overwrite --json"
EVALUATE = "evaluate pruned --task sst2 --data rows.csv --json"
PLAN = """\
title: Tiny models
tasks:
  one: {task: sst2, model: model, data: rows}
methods:
  magnitude:
  random: {options: {tune: false}, vary: {ridge: [1]}}
budgets: [0.5]
seeds: [0, 1]
calibration_tokens: 100
"""
SIZES = {"0": {"heads": 2, "neurons": 12}, "1": {"heads": "1-4"}, "encoder.layer.1.ffn": {"units": 20, "keep": [0, 3]}}


@dataclass(frozen=True)
class Kind:
    """A kind of file: which ones, how they are damaged, and the command that reads them."""

    files: Sequence[str]
    mutators: Sequence[Mutate]
    command: str
    told: bool = False
    """Whether another result than that of the whole file must be told: the file says itself what is right."""
    result: str | None = None
    """File in which the command leaves its result; None for what it prints."""


def _data(*names: str, mutators: Sequence[Mutate] = mutate.TEXT) -> dict[str, Kind]:
    return {
        f"data{Path(name).suffix}": Kind([name], mutators, f"evaluate model --task sst2 --data {name}")
        for name in names
    }


KINDS = {
    **_data("rows.csv", "rows.tsv", "rows.csv.gz", "rows.txt"),
    **_data("rows.jsonl", "rows.json", mutators=mutate.JSON),
    **_data("rows.parquet", mutators=mutate.BYTES),
    "yaml": Kind(["plan.yaml"], mutate.TEXT, "compare plan.yaml --out compared --show"),
    "rows": Kind(["compared/rows.jsonl"], mutate.JSON, "compare plan.yaml --out compared --show --json", told=True),
    "sizes": Kind(["sizes.json"], mutate.JSON, f"{PRUNE} --method random --sizes sizes.json"),
    "cache": Kind(
        ["cache"], mutate.TENSORS, f"{PRUNE} --flops 0.5 --cache cache", told=True, result="out/model.safetensors"
    ),
    "config": Kind(["pruned/config.json"], mutate.JSON, EVALUATE),
    "dense-config": Kind(["model/config.json"], mutate.JSON, "evaluate model --task sst2 --data rows.csv"),
    "manifest": Kind(["pruned/trimformer.json"], mutate.JSON, "report pruned --out page.html --overwrite"),
    "facts": Kind(["tuned/trimformer.json"], mutate.JSON, "evaluate tuned --task sst2 --data rows.csv"),
    "weights": Kind(["pruned/model.safetensors"], mutate.TENSORS, EVALUATE, told=True),
    "tokenizer": Kind(["pruned/tokenizer.json", "pruned/tokenizer_config.json"], mutate.JSON, EVALUATE),
}


def build(folder: Path) -> None:
    """Make the world in an empty folder, which must be the current one."""
    tokenizer = build_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    checkpoint.write(model, folder / "model", tokenizer=tokenizer)
    write_rows(folder)
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "sizes.json").write_text(json.dumps(SIZES, indent=1))
    for command in (
        f"{PRUNE} --flops 0.5 --cache cache",
        "compare plan.yaml --out compared",
        "finetune model --task sst2 --data rows --train max_steps=2 --out tuned",
    ):
        if execute(*command.split()):
            raise RuntimeError(f"cannot make the world: {command}")
    (folder / "out").rename(folder / "pruned")


def write_rows(folder: Path) -> None:
    """Write the same rows in every form."""
    (folder / "rows").mkdir()
    write(folder / "rows" / "train.jsonl", rows(40, seed=0))
    given = rows(12, seed=1)
    for name in (folder / "rows" / "validation.jsonl", folder / "rows.jsonl"):
        write(name, given)
    (folder / "rows.json").write_text(json.dumps(given))
    table = [["sentence", "label"], *([str(value) for value in row.values()] for row in given)]
    for name, separator in (("rows.csv", ","), ("rows.tsv", "\t")):
        (folder / name).write_text("".join(separator.join(row) + "\n" for row in table))
    (folder / "rows.csv.gz").write_bytes(gzip.compress((folder / "rows.csv").read_bytes(), mtime=0))
    (folder / "rows.txt").write_text("".join(f"{row['sentence']}\n" for row in given))
    columns = {
        "sentence": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["no", "yes"], "_type": "ClassLabel"},
    }
    said = {"info": {"features": columns}}
    parquet = pa.Table.from_pylist(given).replace_schema_metadata({b"huggingface": json.dumps(said).encode()})
    pa.parquet.write_table(parquet, folder / "rows.parquet")


def file_of(place: str, folder: Path) -> Path:
    """The file to damage; of the cache, the one that is in it."""
    path = folder / place
    return next(path.iterdir()) if path.is_dir() else path


def restore(template: Path, folder: Path) -> None:
    """Put everything back as it was."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(template, folder, dirs_exist_ok=True)
