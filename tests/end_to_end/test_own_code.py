"""Code that lies in a model's folder runs for a command that is told to trust it, and for no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from commands import Run, assert_mistake, rows, write
from conftest import TinyBert

OWN_CODE = """
import pathlib
from transformers import BertConfig, BertForSequenceClassification
with pathlib.Path({marker!r}).open("a") as marker:
    marker.write("ran")
class OwnConfig(BertConfig):
    model_type = "own"
class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
"""


@pytest.mark.usefixtures("own_code")
def test_it_runs_only_where_it_is_trusted(
    run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder, data, marker = tmp_path / "own", tmp_path / "rows.jsonl", tmp_path / "marker"
    tiny_bert(num_labels=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "own.py").write_text(OWN_CODE.format(marker=str(marker)))
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "architectures": ["OwnModel"], "auto_map": code}
    (folder / "config.json").write_text(json.dumps(config | own))
    write(data, rows(8, seed=0))
    command = ["evaluate", folder, "--task", "sst2", "--data", data]
    assert_mistake(run(*command), "needs code that lies in it", "--trust-remote-code")
    assert not marker.exists()
    trusting = run(*command, "--trust-remote-code")
    assert trusting.code == 0, trusting.err
    assert marker.exists()
    assert_mistake(run(*command), "needs code that lies in it")
