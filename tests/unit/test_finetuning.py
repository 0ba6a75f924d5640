"""Fine-tuning: models learn, runs resume, pruned models stay pruned, heads are new only where they must be."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from conftest import WORDS, TinyBert
from tiny_models import inputs, tiny_model
from trimformer import plugins
from trimformer.errors import CheckpointError, DataError, InvalidOption, LabelError, NumericalError
from trimformer.judging.losses import contrastive_loss, ranking_loss
from trimformer.judging.project import Project
from trimformer.model import checkpoint
from trimformer.model.structure import parameter_count, read_structure
from trimformer.model.surgery import cut
from trimformer.model.trimformer_modules import NoHeads
from trimformer.pruning.budget import Budget
from trimformer.training.finetune import FineTuning, finetune, judge, training_features
from trimformer.training.heads import load_to_train
from trimformer.training.p_pruning import prune_pretrained
from trimformer.training.step_time import step_times
from trimformer.training.trainer import DEFAULTS
from unit.test_checksums import flip

QUICK = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}
LEARNED = QUICK | {"num_train_epochs": 8, "warmup_steps": 0.1}
"""As long as every order of rows, which is another with another transformers, needs to be learnt."""


def sentences(count: int, seed: int) -> Dataset:
    """Half of them name a cat and have label 1, the others a dog."""
    generator = random.Random(seed)  # noqa: S311  # words for a test
    words = [word for word in WORDS.split() if word not in {"cat", "dog"}]
    rows = []
    for index in range(count):
        chosen = [*generator.choices(words, k=generator.randint(2, 6)), "cat" if index % 2 else "dog"]
        generator.shuffle(chosen)
        rows.append({"sentence": " ".join(chosen), "label": index % 2})
    return Dataset.from_list(rows)


def project_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, task: str = "sst2", rows: Dataset | None = None
) -> Project:
    train = rows or sentences(64, seed=0)
    held_out = rows or sentences(40, seed=1)
    return Project(model, tokenizer, plugins.load("tasks", task), train, held_out)


@pytest.fixture
def project(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> Project:
    return project_of(tiny_bert(num_labels=2), tokenizer)


@pytest.fixture
def uneven(tiny_bert: TinyBert) -> PreTrainedModel:
    """Pruned: 3 heads in block 0, none in block 1; 20 and 48 neurons."""
    model = tiny_bert(num_labels=2)
    structure = read_structure(model)
    masks = structure.full_masks()
    attention0, ffn0, attention1, _ = (site.name for site in structure)
    masks[attention0][0] = False
    masks[attention1][:] = False
    masks[ffn0][20:] = False
    cut(structure, masks)
    return model


def interrupted_after(steps: int, stage: str = "fine-tuning") -> Any:
    """A progress that ends the run as Ctrl-C does, after so many training steps of a stage."""

    def progress(items: Sequence[Any], description: str) -> Iterator[Any]:
        for index, item in enumerate(items):
            if description.endswith(stage) and index == steps:
                raise KeyboardInterrupt
            yield item

    return progress


def counting(done: list[tuple[int, int]]) -> Any:
    """A progress that notes of every fine-tuning how many steps were gone, and of how many."""

    def progress(items: Sequence[Any], description: str) -> Iterator[Any]:
        place = len(done)
        for index, item in enumerate(items):
            if description.endswith("fine-tuning"):
                done[place:] = [(index, len(items))]
            yield item
        if description.endswith("fine-tuning"):
            done[place:] = [(len(items), len(items))]

    return progress


def same_weights(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    there = second.state_dict()
    return all(torch.equal(values, there[name]) for name, values in first.state_dict().items())


class TestLearns:
    def test_a_classifier(self, project: Project, tmp_path: Path) -> None:
        before = {name: values.clone() for name, values in project.model.state_dict().items()}
        tuned = finetune(project.with_guard(), FineTuning(arguments=LEARNED), tmp_path)
        assert judge(project, tuned.model, project.evaluation_rows)["accuracy"].value > 0.9
        assert all(torch.equal(values, before[name]) for name, values in project.model.state_dict().items())
        facts = tuned.facts
        assert (facts["rows"], facts["guard_rows"], facts["metric"]) == (48, 16, "accuracy")
        steps = [point["step"] for point in facts["curve"]]
        assert steps == list(range(0, steps[-1] + 1, 6))
        assert facts["best_step"] in steps[1:]
        assert facts["losses"][-1]["loss"] < facts["losses"][0]["loss"]

    def test_regression(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
        pairs = [
            {"sentence1": row["sentence"], "sentence2": "the city", "label": 5.0 * row["label"]}
            for row in sentences(64, seed=0)
        ]
        model = tiny_bert(num_labels=1, problem_type="regression")
        project = project_of(model, tokenizer, task="stsb", rows=Dataset.from_list(pairs))
        project = replace(project, evaluation_rows=project.calibration_rows.select(range(8)))
        tuned = finetune(project, FineTuning(patience=0, arguments=LEARNED), tmp_path)
        assert judge(project, tuned.model, project.calibration_rows)["spearman"].value > 0.7

    def test_question_answering(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
        rows = Dataset.from_list(
            [
                {
                    "question": "where is the cat",
                    "context": text,
                    "answers": {"text": ["cat"], "answer_start": [text.index("cat")]},
                }
                for text in sentences(64, seed=0)["sentence"]
                if "cat" in text
            ]
        )
        project = project_of(tiny_bert("QuestionAnswering"), tokenizer, task="squad", rows=rows)
        project = replace(project, evaluation_rows=rows.select(range(4)))
        tuned = finetune(project, FineTuning(patience=0, arguments=QUICK | {"num_train_epochs": 10}), tmp_path)
        before, after = (judge(project, model, rows)["f1"].value for model in (project.model, tuned.model))
        assert after > max(before, 0.8)

    def test_embeddings_from_pairs(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
    ) -> None:
        words = WORDS.split()
        pairs = Dataset.from_list(
            [{"first": f"{a} of {b}", "second": f"{b} {a} was"} for a in words[:8] for b in words[8:16]]
        )
        project = project_of(tiny_bert(None), tokenizer, task="embedding", rows=pairs)
        project = replace(project, evaluation_rows=pairs.select(range(4)))
        tuned = finetune(project, FineTuning(patience=0, arguments=QUICK | {"learning_rate": 3e-3}), tmp_path)
        before, after = (judge(project, model, pairs)["mrr"].value for model in (project.model, tuned.model))
        assert after > before
        assert tuned.facts["losses"][-1]["loss"] < tuned.facts["losses"][0]["loss"]

    def test_embeddings_from_scores(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
    ) -> None:
        pairs = Dataset.from_list(
            [
                {"first": row["sentence"], "second": "a cat", "score": float(row["label"])}
                for row in sentences(64, seed=0)
            ]
        )
        project = project_of(tiny_bert(None), tokenizer, task="embedding", rows=pairs)
        project = replace(project, evaluation_rows=pairs.select(range(4)))
        tuned = finetune(project, FineTuning(patience=0, arguments=QUICK), tmp_path)
        before, after = (judge(project, model, pairs)["spearman"].value for model in (project.model, tuned.model))
        assert after > before

    def test_a_masked_language_model_without_labels(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
    ) -> None:
        text = Dataset.from_dict({"text": sentences(64, seed=0)["sentence"]})
        held_out = Dataset.from_dict({"text": sentences(40, seed=1)["sentence"]})
        project = replace(
            project_of(tiny_bert("MaskedLM"), tokenizer, task="text", rows=text), evaluation_rows=held_out
        )
        tuned = finetune(project.with_guard(), FineTuning(arguments=QUICK), tmp_path)
        before, after = (judge(project, model, held_out)["masked_loss"].value for model in (project.model, tuned.model))
        assert after < before
        assert tuned.facts["curve"][-1]["value"] < tuned.facts["curve"][0]["value"]

    def test_a_decoder_on_text(self, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
        text = Dataset.from_dict({"text": [f"{line} ." for line in sentences(64, seed=0)["sentence"]]})
        held_out = Dataset.from_dict({"text": [f"{line} ." for line in sentences(40, seed=1)["sentence"]]})
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4))
        project = project_of(model.eval(), tokenizer, task="language_modeling", rows=text)
        project = replace(project, evaluation_rows=held_out)
        tuned = finetune(project.with_guard(), FineTuning(arguments=QUICK), tmp_path)
        before, after = (judge(project, model, held_out)["perplexity"].value for model in (project.model, tuned.model))
        assert after < before / 2
        assert tuned.facts["best_step"] == tuned.facts["steps"]

    def test_a_model_that_names_its_classes_in_another_order(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        model = tiny_bert(num_labels=2)
        own = project_of(model, tokenizer)
        model.config.id2label = {0: "positive", 1: "negative"}
        there = training_features(own, FineTuning(), seed=0)
        model.config.id2label = {0: "negative", 1: "positive"}
        here = training_features(own, FineTuning(), seed=0)
        assert [row["labels"] for row in here] == [1 - row["labels"] for row in there]


class TestPruned:
    def test_stays_pruned_through_training_saving_and_loading(
        self, uneven: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
    ) -> None:
        project = project_of(uneven, tokenizer)
        tuned = finetune(project.with_guard(), FineTuning(arguments=QUICK), tmp_path / "run")
        saved = checkpoint.write(tuned.model, tmp_path / "out", tokenizer=tokenizer)
        loaded = AutoModelForSequenceClassification.from_pretrained(saved)
        assert same_weights(loaded, tuned.model)
        assert parameter_count(loaded) == parameter_count(uneven)
        assert any(isinstance(module, NoHeads) for module in loaded.modules())
        assert loaded.config.quantization_config.kept == uneven.config.quantization_config.kept

    @pytest.mark.parametrize(("damaged", "resumed_at"), [(False, 12), (True, 6)])
    def test_an_interrupted_run_resumes_to_the_same_weights(
        self,
        uneven: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tmp_path: Path,
        damaged: bool,
        resumed_at: int,
    ) -> None:
        project, options = project_of(uneven, tokenizer).with_guard(), FineTuning(arguments=QUICK)
        whole, said = finetune(project, options, tmp_path / "whole", seed=3), list[str]()
        with pytest.raises(KeyboardInterrupt):
            finetune(replace(project, progress=interrupted_after(13)), options, tmp_path / "parts", seed=3)
        half_written = tmp_path / "parts" / "checkpoint-17"
        half_written.mkdir()
        if damaged:
            flip(tmp_path / "parts" / "checkpoint-12" / "model.safetensors", -9)
        steps = list[tuple[int, int]]()
        told = replace(project, progress=counting(steps))
        resumed = finetune(told, options, tmp_path / "parts", seed=3, resume=True, say=said.append)
        assert [line.split("/")[-1] for line in said] == damaged * [
            "checkpoint-12 is damaged: going on from the one before, if there is one"
        ]
        assert resumed.facts["resumed_at_step"] == resumed_at
        assert steps == [(18 - resumed_at, 18 - resumed_at)], "the bar is of the steps that are left, and full"
        assert not half_written.exists()
        assert same_weights(resumed.model, whole.model)
        assert resumed.facts["curve"] == whole.facts["curve"]

    def test_a_pretrained_model_is_pruned_below_its_new_head(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
    ) -> None:
        checkpoint.write(tiny_bert(None), tmp_path / "base", tokenizer=tokenizer)
        task = plugins.load("tasks", "sst2")
        model, new = load_to_train(str(tmp_path / "base"), task)
        unlabelled = sentences(64, seed=0).remove_columns("label")
        project = replace(project_of(model, tokenizer), calibration_rows=unlabelled)
        result = prune_pretrained(project, Budget(flops=0.5), new_head=new, method="surgeon", calibration_tokens=200)
        assert result.manifest["budget"]["reached"] <= 0.5
        timed, workload = result.manifest["latency"]["pruned"], result.manifest["workload"]
        assert (timed["rows"], timed["length"]) == (workload["batch_size"], round(workload["sequence_length"]))
        assert torch.equal(result.model.classifier.weight, model.classifier.weight)
        assert parameter_count(result.model) < parameter_count(model)
        saved = checkpoint.write(result.model, tmp_path / "small", tokenizer=tokenizer)
        loaded, lacking = load_to_train(str(saved), task)
        assert lacking == []
        assert same_weights(loaded, result.model)

    def test_one_that_will_choose_is_pruned_below_its_new_head_by_every_choice(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
    ) -> None:
        checkpoint.write(tiny_bert(None), tmp_path / "base", tokenizer=tokenizer)
        task = plugins.load("tasks", "multiple_choice")
        model, new = load_to_train(str(tmp_path / "base"), task)
        texts = [str(row["sentence"]) for row in sentences(40, seed=0).to_list()]
        rows = Dataset.from_list([{"question": text, "choices": ["a cat", "the dog"], "label": 0} for text in texts])
        project = Project(model, tokenizer, task, rows.select(range(30)), rows.select(range(30, 40)))
        result = prune_pretrained(project, Budget(flops=0.5), new_head=new, method="surgeon", calibration_tokens=200)
        assert result.manifest["budget"]["reached"] <= 0.5
        batch = inputs(model, (5, 4))
        assert result.model(**batch).logits.shape == (2, 2)

    def test_methods_that_need_labels_are_refused(self, project: Project) -> None:
        with pytest.raises(InvalidOption, match="mask_tuning needs labels"):
            prune_pretrained(project, Budget(flops=0.5), method="mask_tuning")

    @pytest.mark.slow
    def test_steps_are_timed_on_copies(self, project: Project, uneven: PreTrainedModel) -> None:
        before = {name: values.clone() for name, values in uneven.state_dict().items()}
        times = step_times(project, {"dense": project.model, "finetuned": uneven}, FineTuning(arguments=QUICK))
        assert set(times) == {"dense", "finetuned"}
        assert all(0 < time.low_ms <= time.median_ms <= time.high_ms and time.steps == 6 for time in times.values())
        assert all(torch.equal(values, before[name]) for name, values in uneven.state_dict().items())

    def test_a_step_is_timed_alone(self, project: Project) -> None:
        """In a model that rests in every forward pass, that is in its own times and in no other's."""
        resting = copy.deepcopy(project.model)
        resting.register_forward_pre_hook(lambda *_: time.sleep(0.1))
        times = step_times(project, {"as it is": project.model, "resting": resting}, FineTuning(arguments=QUICK))
        assert times["resting"].low_ms >= 100
        assert times["as it is"].median_ms < 100


class TestHeads:
    @pytest.fixture
    def base(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> str:
        return str(checkpoint.write(tiny_bert(None), tmp_path / "base", tokenizer=tokenizer))

    def test_new_where_there_is_none(self, base: str) -> None:
        model, new = load_to_train(base, plugins.load("tasks", "mnli"))
        assert new == ["classifier.bias", "classifier.weight"]
        assert model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
        regression, _ = load_to_train(base, plugins.load("tasks", "stsb"))
        assert (regression.config.num_labels, regression.config.problem_type) == (1, "regression")

    def test_the_same_for_the_same_seed(self, base: str) -> None:
        weights = [
            load_to_train(base, plugins.load("tasks", "sst2"), seed=seed)[0].classifier.weight for seed in (0, 0, 1)
        ]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_kept_where_it_fits_and_new_where_it_is_for_something_else(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
    ) -> None:
        model = tiny_bert(num_labels=2)
        name = str(checkpoint.write(model, tmp_path / "two", tokenizer=tokenizer))
        kept, new = load_to_train(name, plugins.load("tasks", "mrpc"))
        assert new == []
        assert torch.equal(kept.classifier.weight, model.classifier.weight)
        _, new = load_to_train(name, plugins.load("tasks", "mnli"))
        assert new == ["classifier.bias", "classifier.weight"]

    def test_one_that_fits_gives_way_when_asked(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, base: str, tmp_path: Path
    ) -> None:
        model = tiny_bert(num_labels=2)
        name = str(checkpoint.write(model, tmp_path / "two", tokenizer=tokenizer))
        task = plugins.load("tasks", "sst2")
        (model_a, new), (model_b, _), (other, _) = (load_to_train(name, task, seed=s, new_head=True) for s in (0, 0, 1))
        assert new == ["classifier.bias", "classifier.weight"]
        assert same_weights(model_a.bert, model.bert)
        assert torch.equal(model_a.classifier.weight, model_b.classifier.weight)
        assert not torch.equal(model_a.classifier.weight, other.classifier.weight)
        assert not torch.equal(model_a.classifier.weight, model.classifier.weight)
        assert torch.equal(model_a.classifier.weight, load_to_train(base, task)[0].classifier.weight)

    @pytest.mark.parametrize(
        ("problem", "labels", "new_head"),
        [("regression", 1, False), ("regression", 1, True), ("multi_label_classification", 2, True)],
    )
    def test_is_trained_by_the_loss_of_its_task_whatever_the_head_before_was_for(
        self,
        tiny_bert: TinyBert,
        tokenizer: PreTrainedTokenizerBase,
        tmp_path: Path,
        *,
        problem: str,
        labels: int,
        new_head: bool,
    ) -> None:
        model = tiny_bert(num_labels=labels, problem_type=problem)
        name = str(checkpoint.write(model, tmp_path / "other", tokenizer=tokenizer))
        found, _ = load_to_train(name, plugins.load("tasks", "sst2"), new_head=new_head)
        batch = inputs(found, (5, 4))
        labels_of_rows = torch.tensor([1, 0])
        with torch.no_grad():
            output = found(**batch, labels=labels_of_rows)
        assert torch.allclose(output.loss, functional.cross_entropy(output.logits, labels_of_rows))

    def test_the_same_names_in_a_model_of_label_sets_become_classes(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
    ) -> None:
        names = {0: "POSITIVE", 1: "NEGATIVE"}
        model = tiny_bert(num_labels=2, id2label=names, problem_type="multi_label_classification")
        name = str(checkpoint.write(model, tmp_path / "sets", tokenizer=tokenizer))
        found, _ = load_to_train(name, plugins.load("tasks", "sst2"))
        assert found.config.id2label == names
        assert found.config.problem_type == "single_label_classification"

    def test_word_embeddings_are_no_new_weights(self, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
        decoder = tiny_model("llama", "language model", tie_word_embeddings=True)
        name = str(checkpoint.write(decoder, tmp_path / "decoder", tokenizer=tokenizer))
        with pytest.raises(InvalidOption, match=r"the head of .* is its word embeddings, which stay"):
            load_to_train(name, plugins.load("tasks", "language_modeling"), new_head=True)
        masked = tiny_model("bert", "masked language model")
        name = str(checkpoint.write(masked, tmp_path / "masked", tokenizer=tokenizer))
        found, new = load_to_train(name, plugins.load("tasks", "fill_mask"), new_head=True)
        assert "cls.predictions.transform.dense.weight" in new
        assert "cls.predictions.decoder.weight" not in new
        assert torch.equal(found.cls.predictions.decoder.weight, masked.bert.embeddings.word_embeddings.weight)

    def test_a_damaged_base_is_refused(self, base: str) -> None:
        weights = Path(base) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:200])
        with pytest.raises(CheckpointError, match="damaged"):
            load_to_train(base, plugins.load("tasks", "sst2"))


class TestStopping:
    def test_it_stops_without_a_better_judgement_and_returns_the_best(self, project: Project, tmp_path: Path) -> None:
        options = FineTuning(patience=2, arguments=QUICK | {"num_train_epochs": 9, "learning_rate": 1e-12})
        steps = list[tuple[int, int]]()
        tuned = finetune(replace(project.with_guard(), progress=counting(steps)), options, tmp_path)
        assert tuned.facts["stopped_early"]
        assert steps == [(18, 54)], "nothing says that the rest was done"
        assert tuned.facts["steps"] == 18
        assert tuned.facts["best_step"] == 6

    def test_checkpoints_by_steps_are_judged_by_steps(self, project: Project, tmp_path: Path) -> None:
        options = FineTuning(patience=9, arguments=QUICK | {"save_strategy": "steps", "save_steps": 4})
        tuned = finetune(project.with_guard(), options, tmp_path)
        assert [point["step"] for point in tuned.facts["curve"]][:4] == [0, 4, 8, 12]

    def test_no_row_is_both_trained_on_and_kept_apart(self, project: Project) -> None:
        doubled = replace(project, calibration_rows=sentences(40, seed=1))
        with pytest.raises(DataError, match="no rows to train on"):
            training_features(doubled, FineTuning(), seed=0)

    def test_rows_limits_the_training_rows(self, project: Project) -> None:
        assert len(training_features(project, FineTuning(rows=10), seed=0)) == 10

    def test_mixed_precision_is_left_behind(self, project: Project, tmp_path: Path) -> None:
        options = FineTuning(patience=0, arguments=QUICK | {"bf16": True})
        tuned = finetune(project, options, tmp_path)
        assert tuned.facts["precision"] == "bfloat16"
        assert "_original_forward" not in vars(tuned.model)
        assert tuned.model.dtype == torch.float32
        batch = project.tokenizer(["the cat saw"], return_tensors="pt")
        again = type(tuned.model)(tuned.model.config).eval()
        again.load_state_dict(tuned.model.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(tuned.model(**batch).logits, again(**batch).logits)


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"learning_rat": 1}, "Did you mean 'learning_rate'"),
            ({"output_dir": "x"}, "`out`"),
            ({"seed": 3}, "`seed` is it"),
            ({"metric_for_best_model": "loss"}, "the task's first metric"),
            ({"learning_rate": "fast"}, "`learning_rate='fast'` must be a number"),
            ({"bf16": "maybe"}, "bf16"),
            ({"learning_rate": 0.0}, "`learning_rate=0` is out of range"),
            ({"num_train_epochs": float("nan")}, "num_train_epochs=nan"),
            ({"per_device_train_batch_size": 0}, "at least 1"),
            ({"num_train_epochs": None}, "`num_train_epochs=None` must be a number"),
            ({"max_steps": 2.5}, "`max_steps=2.5` must be a whole number"),
            ({"max_steps": [3]}, "`max_steps=[3]` must be one value"),
            ({"bf16": 1}, "`bf16=1` must be true or false"),
            ({"optim": {"name": "adam"}}, "must be one value"),
        ],
    )
    def test_arguments(self, arguments: dict[str, Any], said: str) -> None:
        with pytest.raises(InvalidOption) as error:
            FineTuning(arguments=arguments)
        assert said in str(error.value)

    def test_arguments_of_their_types_stay_as_they_are(self) -> None:
        given = {
            "num_train_epochs": 1,
            "max_steps": -1,
            "bf16": False,
            "lr_scheduler_kwargs": {"num_cycles": 2},
            "include_for_metrics": [],
            "report_to": "none",
            "optim_args": None,
        }
        assert {name: (value, type(value)) for name, value in FineTuning(arguments=given).arguments.items()} == {
            name: (value, type(value)) for name, value in given.items()
        }

    def test_options(self) -> None:
        for wrong in ({"rows": 0}, {"patience": -1}, {"rows": "3"}, {"patience": None}, {"patience": [1]}):
            with pytest.raises(InvalidOption, match=next(iter(wrong))):
                FineTuning(**wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidOption, match="`rows='many'` must be a whole number"):
            FineTuning.from_text({"rows": "many"})

    def test_text_becomes_what_the_argument_is(self) -> None:
        read = FineTuning.from_text(
            {"rows": "7", "patience": "0", "learning_rate": "1e-3", "bf16": "true", "optim": "sgd"}
        )
        assert (read.rows, read.patience) == (7, 0)
        assert read.arguments["learning_rate"] == 1e-3
        assert read.arguments["bf16"] is True
        assert str(read.arguments["optim"]) == "sgd"

    def test_defaults_are_arguments(self) -> None:
        assert FineTuning(arguments=DEFAULTS).arguments == DEFAULTS

    def test_labels_missing(self, project: Project, tmp_path: Path) -> None:
        unlabelled = replace(project, calibration_rows=sentences(40, seed=0).remove_columns("label"))
        with pytest.raises(LabelError, match="label"):
            finetune(unlabelled, FineTuning(patience=0), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_nothing_to_choose_by(self, project: Project, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="with_guard"):
            finetune(project, FineTuning(), tmp_path)
        with pytest.raises(InvalidOption, match="save_strategy=no"):
            finetune(project.with_guard(), FineTuning(arguments={"save_strategy": "no"}), tmp_path)

    def test_arguments_that_contradict_each_other(self, project: Project, tmp_path: Path) -> None:
        with pytest.raises(InvalidOption, match="do not go together"):
            finetune(project, FineTuning(patience=0, arguments={"fp16": True, "bf16": True}), tmp_path)

    def test_divergence_is_said(self, project: Project, tmp_path: Path) -> None:
        options = FineTuning(patience=0, arguments=QUICK | {"learning_rate": 1e30, "max_grad_norm": 0})
        with pytest.raises(NumericalError, match="lower `learning_rate`"):
            finetune(project, options, tmp_path)


class TestLosses:
    def test_contrastive_loss_is_least_where_pairs_are_nearest(self) -> None:
        first = torch.eye(4)
        assert contrastive_loss(first, first) < 1e-6
        uniform = contrastive_loss(first, torch.full((4, 4), 0.5))
        assert uniform == pytest.approx(torch.log(torch.tensor(4.0)).item())
        assert contrastive_loss(first, first.roll(1, 0)) > uniform

    def test_ranking_loss_wants_the_order_of_the_scores(self) -> None:
        first = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.5], [1.0, 2.0]]), dim=-1)
        second = torch.tensor([[1.0, 0.0]]).expand(3, 2)
        right, wrong = torch.tensor([5.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 5.0])
        assert ranking_loss(first, second, right) < ranking_loss(first, second, wrong)
        assert ranking_loss(first, second, torch.zeros(3)) == 0
        torch.testing.assert_close(ranking_loss(first, second, right), ranking_loss(first, second, 10 * right - 3))
