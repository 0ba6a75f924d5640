"""Mistakes that people make in Python: each is one line of a `TrimformerError` that names the argument.

Nothing is accepted silently, nothing ends in an error of somebody else's, and the model stays as it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertModel, PreTrainedModel, PreTrainedTokenizerBase

import trimformer
from conftest import TinyBert
from trimformer import (
    Budget,
    Pruner,
    PruningResult,
    Sizes,
    TrimformerError,
    cut,
    load_model,
    load_tokenizer,
    plugins,
    prune,
    save,
)
from trimformer.pruning.method_options import make_method

TEXTS = ["the cat saw a dog", "a dog saw the cat", "the dog"] * 4
HALF = Budget(flops=0.5)
ODD = [None, True, "", "1,2", b"1", [], [1], {}, {1}, (1,), -1, 1j, math.inf, math.nan, object()]
LISTED = {"input_ids": [[2, 5, 6, 3]] * 4}


class Given(SimpleNamespace):
    """What a user has: a model, its tokenizer, texts, a folder, and a result."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path

    @property
    def result(self) -> PruningResult:
        return prune(self.model, LISTED, budget=HALF, method="random", calibration_tokens=None)

    def prune(self, data: Any = TEXTS, **changes: Any) -> PruningResult:
        arguments = {"budget": HALF, "tokenizer": self.tokenizer, "method": "random", "calibration_tokens": None}
        model = changes.pop("model", self.model)
        return prune(model, data, **(arguments | changes))

    @property
    def pruner(self) -> Pruner:
        return Pruner(self.model, LISTED, method="random", calibration_tokens=None)

    @property
    def surgeon(self) -> Pruner:
        return Pruner(self.model, LISTED, calibration_tokens=None)

    def trim(self, texts: Any = TEXTS, **changes: Any) -> Any:
        model, tokenizer = changes.pop("model", self.model), changes.pop("tokenizer", self.tokenizer)
        return trimformer.trim_vocabulary(model, tokenizer, texts, **changes)

    def save(self, out: Any = "out", **changes: Any) -> Path:
        model = changes.pop("model", self.model)
        return save(model, self.folder / out if isinstance(out, str) else out, **changes)


@pytest.fixture
def given(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Given:
    return Given(model=tiny_bert(), tokenizer=tokenizer, folder=tmp_path)


class Pipeline:
    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer


class Adapted(nn.Linear):
    """A projection with an adapter, as PEFT puts it into a model."""

    __module__ = "peft.tuners.lora.layer"


class Bare(BertModel):
    """A model that returns a tensor."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **named: Any) -> Any:
        return super().forward(input_ids, attention_mask, **named).last_hidden_state


def adapted(model: PreTrainedModel) -> PreTrainedModel:
    model.base_model.encoder.layer[0].attention.self.query = Adapted(32, 32)
    return model


def in_two_precisions(model: PreTrainedModel) -> PreTrainedModel:
    model.base_model.encoder.layer[1].to(torch.bfloat16)
    return model


def inferring(call: Callable[[], Any]) -> Any:
    with torch.inference_mode():
        return call()


def in_autocast(call: Callable[[], Any]) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return call()


def loaded_inferring(model: PreTrainedModel) -> PreTrainedModel:
    return inferring(lambda: type(model)(model.config))


MISTAKES: dict[str, tuple[Callable[[Given], Any], str]] = {
    # prune: the model
    "a name": (lambda g: g.prune(model="bert"), r"'bert' is no transformers model.*load_model"),
    "a path": (lambda g: g.prune(model=Path("bert")), r"'bert' is no transformers model.*load_model"),
    "no model": (lambda g: g.prune(model=None), "None is no transformers model.*load_model"),
    "a number": (lambda g: g.prune(model=3), "3 is no transformers model"),
    "a class": (lambda g: g.prune(model=BertModel), "BertModel .a class. is no transformers model"),
    "a tokenizer as model": (lambda g: g.prune(model=g.tokenizer), "is no transformers model"),
    "a state dict": (lambda g: g.prune(model=g.model.state_dict()), "is no transformers model: load it"),
    "a pipeline": (lambda g: g.prune(model=Pipeline(g.model, g.tokenizer)), r"Pipeline .* give its \.model"),
    "in a list": (lambda g: g.prune(model=nn.Sequential(g.model)), r"give the one in it, model\[0\]"),
    "data parallel": (lambda g: g.prune(model=nn.DataParallel(g.model)), r"give the one in it, model\.module"),
    "compiled": (
        lambda g: g.prune(model=torch.compile(g.model, backend="eager")),
        r"give the one in it, model\._orig_mod",
    ),
    "another module": (lambda g: g.prune(model=nn.Linear(2, 2)), "there is none in it"),
    "adapters inside": (lambda g: g.prune(model=adapted(g.model)), r"merge_and_unload\(\)"),
    "two precisions": (lambda g: g.prune(model=in_two_precisions(g.model)), r"bfloat16 and float32.*model\.float\(\)"),
    "meta": (lambda g: g.prune(model=g.model.to("meta")), "device meta, without weights"),
    "a bare tensor": (lambda g: g.prune(model=Bare(g.model.config).eval()), "returns a Tensor"),
    "other inputs": (
        lambda g: g.prune([{"words": torch.ones(2, 3).long()}]),
        "a batch has words, which .* does not read.*input_ids",
    ),
    "inference mode": (lambda g: inferring(g.prune), r"leave it, torch\.no_grad\(\) is enough"),
    "autocast": (lambda g: in_autocast(g.prune), r"within torch\.autocast\(\) .*: leave it"),
    "made in inference mode": (lambda g: g.prune(model=loaded_inferring(g.model)), "load it outside"),
    # prune: the tokenizer
    "tokenizer 3": (lambda g: g.prune(tokenizer=3), "`tokenizer=3` is no tokenizer"),
    "tokenizer name": (lambda g: g.prune(tokenizer="bert"), r"`tokenizer='bert'` is a name.*load_tokenizer\('bert'\)"),
    "tokenizer model": (lambda g: g.prune(tokenizer=g.model), r"`tokenizer=BertForSequenceClassification\(…\)`"),
    "rust tokenizer": (lambda g: g.prune(tokenizer=g.tokenizer.backend_tokenizer), "PreTrainedTokenizerFast"),
    "tokenizer in a pipeline": (lambda g: g.prune(tokenizer=Pipeline(g.model, g.tokenizer)), r"give its \.tokenizer"),
    "texts without tokenizer": (lambda g: g.prune(tokenizer=None), "needs a tokenizer"),
    # prune: budget, sizes, method, options
    "budget 0.4": (lambda g: g.prune(budget=0.4), r"`budget=0\.4` is no Budget: give one such as Budget"),
    "budget text": (lambda g: g.prune(budget="0.4"), "`budget='0.4'` is no Budget"),
    "budget dict": (lambda g: g.prune(budget={"flops": 0.4}), "`budget={'flops': 0.4}` is no Budget"),
    "budget class": (lambda g: g.prune(budget=Budget), r"`budget=Budget \(a class\)` is no Budget"),
    "no budget": (lambda g: g.prune(budget=None), "`budget=None` is no Budget"),
    "sizes as budget": (lambda g: g.prune(budget=Sizes(heads=1)), "is no Budget"),
    "sizes dict": (lambda g: g.prune(sizes={"heads": 1}), "`sizes={'heads': 1}` are no Sizes"),
    "sizes number": (lambda g: g.prune(sizes=8), "`sizes=8` are no Sizes"),
    "method None": (lambda g: g.prune(method=None), "`method=None` must be text"),
    "method class": (lambda g: g.prune(method=type(make_method("surgeon", {}))), "`method=.*Surgeon.*` must be text"),
    "method object": (lambda g: g.prune(method=make_method("surgeon", {})), "`method=Surgeon.*` must be text"),
    "method unknown": (lambda g: g.prune(method="surgon"), "unknown method 'surgon'. Did you mean 'surgeon'?"),
    "options list": (lambda g: g.prune(options=[1]), r"`options=\[1\]` must be a dictionary"),
    "options text": (lambda g: g.prune(options="ridge=1"), "`options='ridge=1'` must be a dictionary"),
    "options keys": (lambda g: g.prune(options={1: 2}), "`options={1: 2}` must be a dictionary"),
    "options unknown": (
        lambda g: g.prune(method="surgeon", options={"rigde": 1}),
        "option of surgeon 'rigde'.*'ridge'",
    ),
    "options value": (lambda g: g.prune(method="surgeon", options={"ridge": [1]}), "`ridge=.*must be a number"),
    "options negative": (lambda g: g.prune(method="surgeon", options={"ridge": -1}), "`ridge=-1` is out of range"),
    # what prune draws and measures by
    "seed None": (lambda g: g.prune(seed=None), "`seed=None` must be a whole number"),
    "seed -1": (lambda g: g.prune(seed=-1), "`seed=-1` .* at least 0 and at most 4294967295$"),
    "seed 1.5": (lambda g: g.prune(seed=1.5), r"`seed=1\.5` must be a whole number"),
    "seed generator": (lambda g: g.prune(seed=torch.Generator()), "`seed=.*must be a whole number"),
    "tokens -1": (lambda g: g.prune(calibration_tokens=-1), "`calibration_tokens=-1` is out of range"),
    "tokens 0": (lambda g: g.prune(calibration_tokens=0), "`calibration_tokens=0` is out of range"),
    "tokens text": (lambda g: g.prune(calibration_tokens="1000"), "`calibration_tokens='1000'` must be a whole number"),
    "tokens too many": (lambda g: g.prune(calibration_tokens=100_000), "100000 calibration tokens asked"),
    "length 0": (lambda g: g.prune(sequence_length=0), "`sequence_length=0` is out of range: .* at least 1$"),
    "length text": (lambda g: g.prune(sequence_length="128"), "`sequence_length='128'` must be a number"),
    "length NaN": (lambda g: g.prune(sequence_length=float("nan")), "`sequence_length=nan` is out of range"),
    "length too long": (lambda g: g.prune(sequence_length=100_000.0), "`sequence_length=100000` .* at most 64$"),
    "batch 0": (lambda g: g.prune(batch_size=0), "`batch_size=0` is out of range"),
    "batch 2.5": (lambda g: g.prune(batch_size=2.5), r"`batch_size=2\.5` must be a whole number"),
    "progress number": (lambda g: g.prune(progress=3), "`progress` is a int: give True, False, or a function"),
    "progress text": (lambda g: g.prune(progress="bar"), "`progress` is a str: give True, False, or a function"),
    # prune: the data; the rest of them is in test_rows_from_anywhere.py
    "data a file": (lambda g: g.prune("rows.csv"), "data is 'rows.csv', not a list"),
    "data None": (lambda g: g.prune(None), "data is None: give a list of texts"),
    "data a model": (lambda g: g.prune(g.model), "data is of the kind BertForSequenceClassification"),
    "data with other columns": (lambda g: g.prune({"review": TEXTS}), "`column='review'`"),
    "column unknown": (lambda g: g.prune({"review": TEXTS}, column="text"), "no column 'text'; it has 'review'"),
    "column number": (lambda g: g.prune({"review": TEXTS}, column=1), "`column=1` must be the name"),
    "data negative ids": (lambda g: g.prune([{"input_ids": torch.tensor([[5, -1]])}]), "token id -1 is no token"),
    # Pruner
    "Pruner cache": (lambda g: Pruner(g.model, LISTED, cache="folder"), "`cache='folder'` must be a MeasuredCache"),
    "Pruner.prune 0.4": (lambda g: g.pruner.prune(0.4), r"`budget=0\.4` is no Budget"),
    "Pruner.prune nothing": (lambda g: g.pruner.prune(), "`budget=None` is no Budget"),
    "Pruner.check numbers": (lambda g: g.pruner.check([0.4]), r"`budget=0\.4` is no Budget"),
    "Pruner.check one": (lambda g: g.pruner.check(HALF), "`budgets=Budget.*must be a list of Budgets"),
    "Pruner.plan numbers": (lambda g: g.surgeon.plan([0.4]), r"`budget=0\.4` is no Budget"),
    "Pruner.plan one": (lambda g: g.surgeon.plan(HALF), "`budgets=Budget.*must be a list of Budgets"),
    "Pruner.plan sizes": (lambda g: g.surgeon.plan(sizes={"heads": 1}), "`sizes={'heads': 1}` are no Sizes"),
    "Pruner.prune sizes": (lambda g: g.surgeon.prune(HALF, {"heads": 1}), "`sizes={'heads': 1}` are no Sizes"),
    "Pruner.plan none": (lambda g: g.surgeon.plan([]), "`budgets` is empty"),
    "Pruner.reachable": (lambda g: g.pruner.reachable("flop"), "unknown cost 'flop'. Did you mean 'flops'?"),
    # Budget and Sizes
    "Budget nothing": (lambda _: Budget(), "exactly one of flops=…, params=…, latency=… or size=…"),
    "Budget two": (lambda _: Budget(flops=0.5, params=0.5), "exactly one of"),
    "Budget percent": (lambda _: Budget(flops=40), r"`flops=40` is outside \(0, 1\]"),
    "Budget text": (lambda _: Budget(flops="0.4"), r"`flops='0\.4'` is no number in \(0, 1\]"),
    "Budget True": (lambda _: Budget(flops=True), r"`flops=True` is no number in"),
    "Budget NaN": (lambda _: Budget(flops=float("nan")), "`flops=nan` is outside"),
    "Budget round text": (lambda _: Budget(flops=0.4, round_to="8"), "`round_to='8'` must be a whole number"),
    "Budget round 0": (lambda _: Budget(flops=0.4, round_to=0), "`round_to=0` is out of range"),
    "Budget uniform": (lambda _: Budget(flops=0.4, uniform=1), "`uniform=1` must be true or false"),
    "Budget round too much": (lambda g: g.prune(budget=Budget(flops=0.5, round_to=512)), "`round_to=512` is more than"),
    "Sizes -1": (lambda _: Sizes(heads=-1), "`heads=-1` must be a number of units"),
    "Sizes 1.5": (lambda _: Sizes(neurons=1.5), r"`neurons=1\.5` must be a number of units"),
    "Sizes dict": (lambda _: Sizes(heads={"0": 1}), "`heads={'0': 1}` must be a number of units"),
    "Sizes True": (lambda _: Sizes(heads=True), "`heads=True` must be a number of units"),
    "Sizes empty": (lambda _: Sizes(heads=[]), r"`heads=\[\]` must be a number of units"),
    "Sizes sites": (lambda _: Sizes(sites=[1]), r"`sites=\[1\]` must be sizes by layer"),
    "Sizes layers": (lambda _: Sizes(keep_layers="x"), "`keep_layers=x` must be numbers and ranges"),
    "Sizes drop -1": (lambda _: Sizes(drop_blocks=-1), "`drop_blocks=-1` must be numbers"),
    "Sizes drop 1.5": (lambda _: Sizes(drop_blocks=1.5), r"`drop_blocks=1\.5` must be numbers"),
    "Sizes sublayers": (lambda g: g.prune(budget=None, sizes=Sizes(drop_sublayers=1.5)), r"drop_sublayers.*1\.5"),
    "Sizes only": (lambda _: Sizes(only=["heads"]), r"`only=\['heads'\]` must be heads or neurons"),
    "Sizes too many": (lambda g: g.prune(budget=None, sizes=Sizes(heads=8)), "`heads=8` is more than"),
    # cut
    "cut name": (lambda _: cut("bert", {}), "'bert' is no transformers model"),
    "cut list": (lambda g: cut(g.model, [1, 2]), r"`kept=\[1, 2\]` must be the units that stay"),
    "cut None": (lambda g: cut(g.model, None), "`kept=None` must be the units that stay"),
    "cut unknown": (lambda g: cut(g.model, {"encoder.layer.0.attn": [0]}), "unknown sublayer.*Did you mean"),
    "cut number": (lambda g: cut(g.model, {1: [0]}), "unknown sublayer 1"),
    "cut outside": (lambda g: cut(g.model, {"encoder.layer.0.attention": [9]}), "has 4 heads"),
    "cut value": (lambda g: cut(g.model, {"encoder.layer.0.attention": None}), "has 4 heads.*got"),
    "cut flag": (lambda g: cut(g.model, {}, in_place="yes"), "`in_place='yes'` must be true or false"),
    # save
    "save name": (lambda g: g.save(model="bert"), "'bert' is no transformers model"),
    "save result": (lambda g: g.save(model=g.result), r"PruningResult is no transformers model.*give its \.model"),
    "save None": (lambda g: g.save(None), "`out=None` must be the path"),
    "save number": (lambda g: g.save(3), "`out=3` must be the path"),
    "save facts": (lambda g: g.save(manifest=g.result.facts), r"`manifest=PruningFacts.*result\.manifest"),
    "save result as manifest": (lambda g: g.save(manifest=g.result), r"`manifest=PruningResult.*result\.manifest"),
    "save any manifest": (lambda g: g.save(manifest={"note": object()}), "`manifest` .*note.* JSON"),
    "save manifest keys": (lambda g: g.save(manifest={1: 2}), "`manifest={1: 2}` must be a dictionary"),
    "save a part": (lambda g: g.save(manifest={"budget": 3}), "is missing|budget is 3"),
    "save tokenizer": (lambda g: g.save(tokenizer="bert"), "`tokenizer='bert'` is a name"),
    "save overwrite": (lambda g: g.save(overwrite="yes"), "`overwrite='yes'` must be true or false"),
    "save dtype": (lambda g: g.save(dtype="float16"), "`dtype='float16'` must be a floating-point type"),
    "save dtype int": (lambda g: g.save(dtype=torch.int8), r"`dtype=torch\.int8` must be a floating-point type"),
    "save files": (lambda g: g.save(extra_files=["a"]), r"`extra_files=\['a'\]` must be a dictionary"),
    "save missing file": (lambda g: g.save(extra_files={"a": g.folder / "nothing"}), "nothing"),
    # load
    "load None": (lambda _: load_model(None), "`name=None` must be"),
    "load a model": (lambda g: load_model(g.model), "`name=BertForSequenceClassification.*must be"),
    "load nothing": (lambda g: load_model(str(g.folder / "nothing")), "nothing"),
    "load a class": (lambda g: load_model(g.save(), BertModel), "`auto_class=BertModel .a class.` must be text"),
    "load unknown class": (lambda g: load_model(g.save(), "AutoModelForNothing"), "AutoModelForNothing"),
    "load device": (lambda g: load_model(g.save(), device=None), "`device=None` must be text"),
    "load unknown device": (lambda g: load_model(g.save(), device="gpu"), "no device 'gpu'"),
    "load dtype": (lambda g: load_model(g.save(), dtype=torch.float16), r"`dtype=torch\.float16` must be one of auto"),
    "load dtype None": (lambda g: load_model(g.save(), dtype=None), "`dtype=None` must be one of auto"),
    "load tokenizer None": (lambda _: load_tokenizer(None), "`name=None` must be"),
    # trim_vocabulary
    "trim name": (lambda g: g.trim(model="bert"), "'bert' is no transformers model"),
    "trim tokenizer": (lambda g: g.trim(tokenizer=None), "`tokenizer=None` is no tokenizer"),
    "trim one text": (lambda g: g.trim("a text"), "`texts` is one text, 'a text': give a list"),
    "trim numbers": (lambda g: g.trim([1, 2]), "`texts`: entry 1 is 1, not text"),
    "trim None": (lambda g: g.trim(None), "`texts=None` must be a list of texts"),
    "trim nothing": (lambda g: g.trim([]), "no texts"),
    "trim count": (lambda g: g.trim(minimum_count=0), "`minimum_count=0` is out of range"),
    "trim count None": (lambda g: g.trim(minimum_count=None), "`minimum_count=None` must be a whole number"),
    "trim characters": (lambda g: g.trim(characters="none"), "`characters=none` must be one of all, seen"),
    "trim held out": (lambda g: g.trim(held_out="a text"), "`held_out` is one text"),
    "trim rows": (lambda g: g.trim(encoded_rows=[3]), "`encoded_rows`: entry 1 is 3"),
    "trim dtype": (lambda g: g.trim(dtype="float16"), "`dtype='float16'` must be a floating-point type"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(given: Given, mistake: str) -> None:
    given.model.train()
    before = {name: values.clone() for name, values in given.model.state_dict().items()}
    call, says = MISTAKES[mistake]
    with pytest.raises(TrimformerError, match=says) as caught:
        call(given)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    if mistake not in ("meta", "adapters inside", "two precisions"):  # these calls change the model themselves
        after = given.model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], values) for name, values in before.items())
        assert all(module.training for module in given.model.modules())
    assert not (given.folder / "out").exists() or mistake.startswith("load")


@pytest.mark.parametrize("folder", ["methods", "recipes"])
def test_an_odd_value_of_an_option_is_taken_or_refused(folder: Any) -> None:
    """Where the classes are made by hand, and no parser has read the values."""
    kinds = plugins.provided(folder).values()
    cases = [(kind, option.name, value) for kind in kinds for option in dataclasses.fields(kind) for value in ODD]
    taken = []
    for kind, name, value in cases:
        with suppress(TrimformerError):
            taken.append(kind(**{name: value}))
    assert 0 < len(taken) < len(cases)


def test_a_model_in_train_mode_ends_as_it_was(given: Given) -> None:
    given.model.train()
    given.model.base_model.embeddings.eval()
    before = {name: module.training for name, module in given.model.named_modules()}
    assert dataclasses.is_dataclass(given.prune(method="surgeon").facts)
    assert {name: module.training for name, module in given.model.named_modules()} == before


def test_what_works_with_gradients_off_works(given: Given) -> None:
    with torch.no_grad():
        assert given.prune(method="surgeon").manifest["warnings"]


def test_what_was_left_out_is_in_the_manifest(given: Given) -> None:
    warnings = given.prune([*TEXTS, "", None]).manifest["warnings"]
    assert warnings[0] == "2 of 14 texts are blank or missing: they are left out"
