"""Mistakes that people make on the command line: each is one line with what, where and the next step, and exit code 2.

Nothing is accepted silently, nothing ends in a traceback, nothing is written.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from commands import Run, assert_mistake, rows, write
from conftest import build_tokenizer
from trimformer import plugins
from trimformer.judging import evaluation
from trimformer.model import checkpoint

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
NAMES = ("billing", "refund", "delivery", "other")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and rows, right and wrong ones."""
    folder = tmp_path_factory.mktemp("world")
    _models(folder)
    _rows(folder)
    _wrong_rows(folder)
    return folder


def _models(folder: Path) -> None:
    tokenizer = build_tokenizer()
    config = transformers.BertConfig(vocab_size=len(tokenizer), **SIZES)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}
    four = transformers.BertConfig(vocab_size=len(tokenizer), **SIZES, **names)
    torch.manual_seed(0)
    made = {
        "model": transformers.BertForSequenceClassification(config),
        "four": transformers.BertForSequenceClassification(four),
        "encoder": transformers.BertModel(config),
        "tagger": transformers.BertForTokenClassification(four),
        "decoder": transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(tokenizer), **SIZES)),
    }
    for name, model in made.items():
        facts = {"task": "sst2", "data": "gone/reviews"} if name == "model" else None
        checkpoint.write(model.eval(), folder / name, tokenizer=tokenizer, manifest=facts)
    shutil.copytree(folder / "model", folder / "broken")
    (folder / "broken" / "config.json").write_text('{"model_type": "bert", ')
    shutil.copytree(folder / "model", folder / "weightless")
    (folder / "weightless" / "model.safetensors").unlink()


def _rows(folder: Path) -> None:
    (folder / "reviews").mkdir()
    write(folder / "reviews" / "train.jsonl", rows(60, seed=0))
    write(folder / "reviews" / "validation.jsonl", rows(12, seed=1))
    tickets = [{"text": row["sentence"], "label": NAMES[i % 4]} for i, row in enumerate(rows(60, seed=2))]
    write(folder / "tickets.jsonl", tickets)
    table = "".join(f"{row['text']};{row['label']}\n" for row in tickets)
    (folder / "odd.csv").write_text(f"Review Text (EN);Stars\n{table}")
    write(folder / "texts.jsonl", [{"text": row["text"]} for row in tickets])
    write(folder / "queries.jsonl", [{"query": row["text"], "positives": [row["label"]]} for row in tickets])


def _wrong_rows(folder: Path) -> None:
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("text,label\n")
    (folder / "latin.csv").write_bytes("text,label\ncafé,billing\n".encode("latin-1") * 60)
    (folder / "ragged.csv").write_text("text,label\nthe cat,billing\nthe dog,refund,extra,more\n")
    (folder / "damaged.jsonl").write_text('{"text": "the cat", "label": "billing"}\n{"text": "the\n')
    (folder / "damaged.parquet").write_bytes(b"PAR1 no parquet")
    (folder / "damaged.csv.gz").write_bytes(gzip.compress(b"text,label\n")[:10])
    (folder / "list.json").write_text("[1, 2, 3]")
    (folder / "rows.docx").write_text("text")
    (folder / "folder").mkdir()
    wrong = [
        {"text": row["sentence"], "label": "biling" if i > 3 else "refund"} for i, row in enumerate(rows(60, seed=3))
    ]
    write(folder / "misspelt.jsonl", wrong)
    write(folder / "unlabelled.jsonl", [{**row, "label": None} for row in wrong])
    write(folder / "numbers.jsonl", [{**row, "label": 7} for row in wrong])
    write(folder / "blank.jsonl", [{"text": "  ", "label": "refund"}] * 60)
    write(
        folder / "uneven.jsonl",
        [{"tokens": row["sentence"].split(), "ner_tags": ["billing"]} for row in rows(20, seed=4)],
    )
    write(
        folder / "untagged.jsonl",
        [{"tokens": row["sentence"].split()[:3], "ner_tags": ["x"] * 3} for row in rows(20, seed=5)],
    )
    (folder / "plan.yaml").write_text(
        "tasks: {a: {task: sst2, model: model, data: reviews}}\nmethods: {kprun: }\nbudgets: [1]\n"
    )
    (folder / "typo.yaml").write_text("task: {}\nmethods: {random: }\nbudgets: [0.5]\n")
    (folder / "broken.yaml").write_text("tasks: [\n")
    (folder / "good.yaml").write_text(
        "tasks: {a: {task: sst2, model: model, data: reviews}}\nmethods: {random: }\nbudgets: [0.5]\n"
    )
    (folder / "share.yaml").write_text(
        "tasks: {a: {task: sst2, model: model, data: reviews}}\nmethods: {random: }\nbudgets: [40]\n"
    )
    (folder / "sizes.json").write_text('{"encoder.layer.9.attention": 1}')
    (folder / "no.json").write_text("{")


PRUNE = "prune model --task sst2 --data reviews --flops 0.5 --calibration-tokens 150 --method random --out out"
OWN = "prune four --flops 0.5 --calibration-tokens 150 --method random --out out"
TUNE = "finetune four --out out"
MISTAKES: dict[str, tuple[str, list[str]]] = {
    # the model
    "no such model": ("prune modle --data reviews --flops 0.5 --out out", ["modle", "no local folder"]),
    "a file as model": ("prune odd.csv --data odd.csv --flops 0.5 --out out", ["odd.csv"]),
    "rows as model": (
        "prune reviews --data reviews --flops 0.5 --out out",
        ["reviews is not a checkpoint", "config.json"],
    ),
    "broken config": ("prune broken --data reviews --flops 0.5 --out out", ["broken"]),
    "no weights": ("prune weightless --task sst2 --data reviews --flops 0.5 --out out", ["weightless"]),
    "a head too few": (
        "prune encoder --task sst2 --data reviews --flops 0.5 --out out",
        ["encoder has no weights for classifier.bias", "fine-tune it"],
    ),
    "a decoder for classes": ("prune decoder --task sst2 --data reviews --flops 0.5 --out out", ["decoder"]),
    "four classes for two": (f"{PRUNE} --task sst2".replace("prune model", "prune four"), ["4 labels", "needs 2"]),
    # the rows
    "no such file": (f"{OWN} --data ticket.jsonl", ["ticket.jsonl", "tickets.jsonl"]),
    "an empty file": (f"{OWN} --data empty.csv", ["empty.csv"]),
    "a header alone": (f"{OWN} --data header.csv", ["no rows", "header.csv"]),
    "an empty folder": (f"{OWN} --data folder", ["folder", "train"]),
    "another encoding": (f"{OWN} --data latin.csv", ["latin.csv", "line 2", "UTF-8"]),
    "ragged rows": (f"{OWN} --data ragged.csv", ["ragged.csv", "Row #3", "extra"]),
    "damaged JSON": (f"{OWN} --data damaged.jsonl", ["damaged.jsonl", "line 2"]),
    "damaged Parquet": (f"{OWN} --data damaged.parquet", ["damaged.parquet"]),
    "damaged gzip": (f"{OWN} --data damaged.csv.gz", ["damaged.csv.gz"]),
    "JSON of numbers": (f"{OWN} --data list.json", ["list.json", "objects"]),
    "another ending": (f"{OWN} --data rows.docx", ["rows.docx", ".csv"]),
    "a checkpoint as rows": (f"{OWN} --data model", ["model"]),
    "blank texts": (f"{OWN} --data blank.jsonl", ["blank"]),
    # their columns
    "columns unnamed": (f"{OWN} --task classification --data odd.csv", ["odd.csv", "'Review Text (EN)'", "--column"]),
    "column misspelt": (
        f"{OWN} --data odd.csv --column text=Review --column label=Stars",
        ["'Review'", "'Review Text (EN)'"],
    ),
    "column unknown": (f"{OWN} --data odd.csv --column txt=Stars", ["txt"]),
    "column twice": (f"{OWN} --data odd.csv --column text=Stars --column text=Stars", ["--column text", "once"]),
    "column empty": (f"{OWN} --data odd.csv --column text=", ["--column text"]),
    "column without name": (f"{OWN} --data odd.csv --column Stars", ["--column 'Stars' must be name=value"]),
    "labels as text": (
        f"{OWN} --task classification --data tickets.jsonl --column text=label --column label=text",
        ["label"],
    ),
    "columns of another task": (f"{OWN} --task question_answering --data tickets.jsonl", ["question"]),
    # their labels
    "label misspelt": (f"{OWN} --data misspelt.jsonl", ["misspelt.jsonl", "'biling'", "did you mean 'billing'?"]),
    "label missing": (f"{OWN} --data unlabelled.jsonl", ["unlabelled"]),
    "label too high": (f"{OWN} --data numbers.jsonl", ["7", "billing"]),
    "tags too few": ("prune tagger --data uneven.jsonl --flops 0.5 --out out", ["uneven.jsonl, row", "1 tags for"]),
    "tags unknown": (
        "prune tagger --data untagged.jsonl --flops 0.5 --out out",
        ["untagged.jsonl, row", "'x'", "billing"],
    ),
    # how small
    "no size": ("prune model --task sst2 --data reviews --out out", ["exactly one of --flops 0.4"]),
    "two sizes": (f"{PRUNE} --params 0.5", ["exactly one of --flops 0.4"]),
    "percent": (f"{PRUNE} --flops 40", ["--flops 40 is outside (0, 1]"]),
    "percent sign": (f"{PRUNE} --flops 400%", ["--flops 4 is outside (0, 1]"]),
    "a percent sign in the middle": (f"{PRUNE} --flops 4%0", ["--flops", "'4%0' is no share"]),
    "no share": (f"{PRUNE} --flops half", ["--flops", "'half' is no share", "0.4, or 40%"]),
    "nothing left": (f"{PRUNE} --flops 0", ["--flops 0", "(0, 1]"]),
    "unreachable": (f"{PRUNE} --keep-layers 0 --flops 0.3", ["a share of 0.3 cannot be reached", "from 0.5"]),
    "too many heads": (f"{PRUNE} --heads 40", ["--heads 40 is more than", "0 to 4"]),
    "heads as share": (f"{PRUNE} --heads 0.5", ["--heads 0.5 must be a number of units"]),
    "layers unknown": (f"{PRUNE} --keep-layers 0-9", ["--keep-layers"]),
    "sublayer unknown": (f"{PRUNE} --sizes sizes.json", ["encoder.layer.9.attention"]),
    "sizes no JSON": (f"{PRUNE} --sizes no.json", ["no.json"]),
    "drop all": (f"{PRUNE} --drop-blocks 3", ["--drop-blocks"]),
    "only words": (f"{PRUNE} --only words", ["--only words must be heads or neurons"]),
    "round too much": (f"{PRUNE} --round-to 512", ["--round-to 512"]),
    "negative loss": ("prune model --task sst2 --data reviews --max-drop -1 --out out", ["--max-drop"]),
    "metric misspelt": (
        "prune model --task sst2 --data reviews --max-drop 0.1 --metric acuracy --out out",
        ["unknown metric 'acuracy'. Did you mean 'accuracy'?"],
    ),
    "sizes of all": (
        "prune model --task sst2 --data reviews --keep-layers 0 --calibration-tokens 150 --out out",
        ["nothing goes by these sizes alone"],
    ),
    "a loss and a size": (f"{PRUNE} --max-drop 0.1", ["exactly one of"]),
    # how
    "method misspelt": (f"{PRUNE} --method surgon", ["unknown method 'surgon'", "'surgeon'"]),
    "option misspelt": (f"{PRUNE} --method surgeon --set rigde=1", ["'rigde'", "'ridge'"]),
    "option of another method": (f"{PRUNE} --method surgeon --set gamma=1", ["unknown option of surgeon 'gamma'"]),
    "option without value": (f"{PRUNE} --set ridge", ["--set 'ridge' must be name=value"]),
    "flag misspelt": (f"{PRUNE} --flop 0.5", ["--flop"]),
    "task misspelt": (f"{PRUNE} --task sts2", ["unknown task 'sts2'", "'stsb'"]),
    "too few tokens": (f"{PRUNE} --calibration-tokens 100000", ["100000 calibration tokens asked"]),
    "tokens as word": (f"{PRUNE} --calibration-tokens 20k", ["--calibration-tokens 20k must be a whole number"]),
    "seed negative": (f"{PRUNE} --seed -3", ["--seed -3"]),
    "rows too short": (f"{PRUNE} --max-length 2", ["--max-length 2"]),
    "rows too long": (f"{PRUNE} --max-length 5000", ["--max-length 5000"]),
    "device unknown": (f"{PRUNE} --device gpu", ["no device 'gpu'"]),
    "dtype unknown": (f"{PRUNE} --dtype fp16", ["--dtype fp16", "float16"]),
    "memory as word": (f"{PRUNE} --device-map auto --max-memory lots", ["--max-memory"]),
    "memory without map": (f"{PRUNE} --max-memory cpu=1GiB", ["--device-map"]),
    "vocabulary missing": (f"{PRUNE} --vocabulary nowhere.txt", ["nowhere.txt"]),
    # where to
    "out exists": (f"{PRUNE} --out reviews", ["reviews exists", "--overwrite"]),
    "out no checkpoint": (f"{PRUNE} --out reviews --overwrite", ["not a checkpoint folder"]),
    "out the model": (f"{PRUNE} --out model --overwrite", ["never replaced"]),
    "out below a file": (f"{PRUNE} --out odd.csv/small", ["odd.csv/small cannot be made", "odd.csv is a file"]),
    "out read-only": (
        f"{PRUNE} --out /proc/small",
        ["/proc/small cannot be made: /proc cannot be written to", "another place"],
    ),
    "report a folder": (f"{PRUNE} --report reviews", ["reviews", "folder"]),
    "report exists": (f"{PRUNE} --report odd.csv", ["odd.csv exists"]),
    "report read-only": (f"{PRUNE} --report /proc/r.html", ["/proc/r.html cannot be made"]),
    "hub name": (f"{PRUNE} --push-to-hub a/b/c", ["a/b/c"]),
    # the other commands
    "sweep no numbers": ("sweep model --task sst2 --data reviews --flops 0.5,half --out out", ["--flops 0.5,half"]),
    "sweep nothing": ("sweep model --task sst2 --data reviews --flops , --out out", ["--flops ,"]),
    "sweep no method": ("sweep model --task sst2 --data reviews --method x --out out", ["unknown method 'x'"]),
    "sweep read-only": ("sweep model --task sst2 --data reviews --out /proc/sizes", ["/proc cannot be written to"]),
    "evaluate no rows": ("evaluate model --task classification", ["--data"]),
    "evaluate no task": ("evaluate model --task sst --data reviews", ["unknown task 'sst'"]),
    "evaluate text alone": ("evaluate model --task text --data texts.jsonl", ["--dense"]),
    "evaluate another kind": ("evaluate decoder --task sst2 --data reviews", ["decoder"]),
    "finetune unlabelled": (f"{TUNE} --task classification --data texts.jsonl", ["texts.jsonl", "label"]),
    "finetune nothing to learn": (
        "finetune encoder --data texts.jsonl --out out",
        ["the rows of texts.jsonl have nothing to train encoder on", "--column label=…"],
    ),
    "finetune two tasks": ("finetune encoder --data queries.jsonl --out out", ["reranking and embedding", "--task"]),
    "finetune no rows": ("finetune encoder --out out", ["--task"]),
    "finetune argument": (
        f"{TUNE} --data tickets.jsonl --train epochs=1",
        ["unknown training argument 'epochs'", "'num_train_epochs'"],
    ),
    "finetune no value": (f"{TUNE} --data tickets.jsonl --train patience", ["--train 'patience' must be name=value"]),
    "finetune label": (f"{TUNE} --data misspelt.jsonl", ["'biling'", "did you mean 'billing'?"]),
    "finetune resume": (f"{TUNE} --data tickets.jsonl --dense-too", ["--dense-too needs"]),
    "finetune read-only": ("finetune four --data tickets.jsonl --out /proc/tuned", ["/proc cannot be written to"]),
    "pprune no size": ("pprune encoder --task sst2 --data reviews --out out", ["exactly one of --flops 0.4"]),
    "pprune read-only": (
        "pprune encoder --task sst2 --data reviews --flops 0.5 --out /proc/small",
        ["/proc cannot be written to"],
    ),
    "pprune with labels": (
        "pprune encoder --task sst2 --data reviews --flops 0.5 --method mask_tuning --out out",
        ["mask_tuning needs labels"],
    ),
    "vocabulary no texts": ("vocabulary model --texts nowhere.txt --out out", ["nowhere.txt"]),
    "vocabulary no text column": ("vocabulary model --texts list.json --out out", ["list.json"]),
    "vocabulary read-only": ("vocabulary model --texts texts.jsonl --out /proc/words", ["/proc cannot be written to"]),
    "vocabulary characters": ("vocabulary model --texts texts.jsonl --characters some --out out", ["some", "seen"]),
    "vocabulary count": ("vocabulary model --texts texts.jsonl --minimum-count 0 --out out", ["--minimum-count"]),
    "latency nothing": ("latency", ["Missing argument"]),
    "latency shape": ("latency model --shapes 32", ["--shapes 32 must be rows x tokens"]),
    "latency zero": ("latency model --shapes 0x8", ["--shapes 0x8"]),
    "latency runtime": ("latency model --runtimes onxx", ["unknown runtime 'onxx'", "'onnx'"]),
    "latency runs": ("latency model --runs 0", ["--runs"]),
    "latency twice": ("latency model model", ["given twice"]),
    "export to nothing": ("export model", ["--onnx"]),
    "export rows gone": (
        "export model --onnx --int8 --out out",
        ["gone/reviews, are not found", "may be elsewhere", "--data"],
    ),
    "export read-only": ("export model --onnx --out /proc/onnx", ["/proc cannot be written to"]),
    "export a decoder": ("export decoder --onnx --out out", ["decoder"]),
    "export data alone": ("export four --onnx --data tickets.jsonl --out out", ["--data needs --task"]),
    "compare no file": ("compare nowhere.yaml --out out", ["nowhere.yaml"]),
    "compare no YAML": ("compare broken.yaml --out out", ["broken.yaml"]),
    "compare key": ("compare typo.yaml --out out", ["'task'", "'tasks'"]),
    "compare method": ("compare plan.yaml --out out", ["'kprun'", "'kprune'"]),
    "compare share": ("compare share.yaml --out out", ["40"]),
    "compare read-only": ("compare good.yaml --out /proc/results", ["/proc cannot be written to"]),
    "report no folder": ("report nowhere --out page.html", ["nowhere"]),
    "report read-only page": ("report model --out /proc/page.html", ["/proc cannot be written to"]),
    "report other folder": ("report reviews --out page.html", ["reviews"]),
    "demo no method": ("demo --method x --out out", ["unknown method 'x'"]),
    "demo size": ("demo --flops 70 --out out", ["--flops 70"]),
    "demo read-only": ("demo --out /proc/demo", ["/proc cannot be written to"]),
    "no such command": ("prun model", ["No such command 'prun'"]),
}


@pytest.fixture(autouse=True)
def nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("a model was judged before the mistake was found")

    plugins.provided("tasks")  # commands import them late: then they would keep what is put in place here
    monkeypatch.setattr(evaluation, "inference", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(run: Run, world: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    typed, said = MISTAKES[name]
    before = {path: path.stat().st_size for path in world.rglob("*")}
    assert_mistake(run(*typed.split()), *said)
    assert {path: path.stat().st_size for path in world.rglob("*")} == before


def test_a_right_command_is_none(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows and models of the mistakes are right but for what is tried: this one command works."""
    monkeypatch.undo()
    done = run("evaluate", world / "four", "--data", world / "tickets.jsonl", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["task"] == "classification"
