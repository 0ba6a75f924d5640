"""Methods that train: sub-networks are what is cut out, importance is its definition, gates are exact, runs resume."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import ModelOutput

from conftest import TinyBert
from tiny_models import inputs, tiny_model
from trimformer import plugins
from trimformer.data.batches import make_batches
from trimformer.data.rows import token_count
from trimformer.errors import InvalidOption, UnreachableTarget, UnsupportedModel
from trimformer.model import checkpoint
from trimformer.model.depth import cut_out
from trimformer.model.gating import decided, gates, with_gates
from trimformer.model.masking import masked
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import cut, select
from trimformer.model.trimformer_gates import straight_through
from trimformer.observing.predictions import predictions
from trimformer.pruning.budget import Budget
from trimformer.recipes import ebert, polish
from trimformer.training.augmentation import augmented
from trimformer.training.distillation import hidden_loss, relative_hidden_loss, soft_loss
from trimformer.training.recipe import Course, judged
from trimformer.training.subnetworks import SubNetwork, add_importance, spread, widest
from unit.test_finetuning import interrupted_after, project_of, same_weights

KINDS = ("bert", "distilbert", "roberta", "electra", "mpnet", "modernbert", "deberta-v2", "gpt2", "llama")
ENCODERS = tuple(kind for kind in KINDS if kind not in ("gpt2", "llama"))


def random_scores(structure: Structure, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {site.name: torch.rand(site.units, generator=generator) for site in structure}


@pytest.fixture
def course(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Course:
    project = project_of(tiny_bert(num_labels=2, num_hidden_layers=3), tokenizer).with_guard()
    return Course(project, tmp_path / "work")


def some_rows(course: Course) -> dict[str, torch.Tensor]:
    """Two training rows of different lengths."""
    return make_batches(
        [course.unlabelled[0], max(course.unlabelled, key=token_count)], course.project.tokenizer, "cpu"
    )[0]


def logits(output: Any) -> torch.Tensor:
    found: torch.Tensor = output.logits
    return found


class TestSubNetworks:
    @pytest.mark.parametrize("kind", KINDS)
    def test_compute_what_is_cut_out_of_the_model(self, kind: str) -> None:
        model = tiny_model(kind, "sequence classification")
        whole, batch = read_structure(model), inputs(model, (11, 9))
        masks = widest(whole, random_scores(whole), 0.5)
        for blocks in ([0, 1], [0]):
            small = cut_out(whole, masks, blocks).eval()
            expected = logits(small(**batch))
            network = SubNetwork(whole, masks, blocks)
            torch.testing.assert_close(logits(network(model, batch)), expected, atol=1e-5, rtol=0)
            if len(blocks) == len(whole.blocks()):
                with masked(whole, masks):
                    torch.testing.assert_close(logits(model(**batch)), expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("kind", ["bert", "modernbert"])
    def test_with_fewer_blocks_load_as_they_were_saved(self, kind: str, tmp_path: Path) -> None:
        model = tiny_model(kind, "sequence classification")
        whole, batch = read_structure(model), inputs(model, (11, 9))
        small = cut_out(whole, widest(whole, random_scores(whole), 0.5), [0]).eval()
        loaded = type(small).from_pretrained(checkpoint.write(small, tmp_path / "small")).eval()
        assert torch.equal(logits(loaded(**batch)), logits(small(**batch)))

    def test_give_their_gradients_to_the_whole_model(self, course: Course) -> None:
        model, whole = course.project.model.requires_grad_(requires_grad=True), course.dense
        masks, batch = widest(whole, random_scores(whole), 0.5), some_rows(course)
        logits(SubNetwork(whole, masks, [0, 2])(model, batch)).square().sum().backward()
        for site in whole:
            gradient = whole.projection(site.consumer).weight.grad
            if site.block == 1:
                assert gradient is None
            else:
                by_unit = gradient.T.reshape(site.units, -1).abs().sum(1)
                assert torch.equal(by_unit > 0, masks[site.name])

    def test_are_the_first_units_of_a_model_ordered_by_importance(self, course: Course) -> None:
        """To order all units changes nothing, and the first of them are then what a sub-network takes."""
        model, scores = course.project.model, random_scores(course.dense)
        batch = some_rows(course)
        ordered = course.dense.copied()
        for site in ordered:
            order = scores[site.name].argsort(descending=True)
            for producer in site.producers:
                select(ordered.projection(producer.path), places(order, producer.widths[0]), outputs=True)
            select(ordered.projection(site.consumer), places(order, site.unit_width), outputs=False)
        torch.testing.assert_close(logits(ordered.model(**batch)), logits(model(**batch)), atol=1e-5, rtol=0)
        first = {site.name: torch.arange(site.units) < round(site.units / 2) for site in ordered}
        cut(ordered, first)
        network = SubNetwork(course.dense, widest(course.dense, scores, 0.5), [0, 1, 2])
        torch.testing.assert_close(logits(network(model, batch)), logits(ordered.model(**batch)), atol=1e-5, rtol=0)

    def test_at_full_size_are_the_model(self, course: Course) -> None:
        model, scores = course.project.model, random_scores(course.dense)
        network = SubNetwork(course.dense, widest(course.dense, scores, 1.0), spread(3, 1.0))
        batch = some_rows(course)
        torch.testing.assert_close(logits(network(model, batch)), logits(model(**batch)), atol=1e-5, rtol=0)

    def test_of_models_that_have_no_depth_are_refused(self) -> None:
        structure = read_structure(tiny_model("albert", "sequence classification"))
        with pytest.raises(UnsupportedModel, match="run several times"):
            cut_out(structure, structure.full_masks(), [0])


def places(order: torch.Tensor, width: int) -> torch.Tensor:
    return (order[:, None] * width + torch.arange(width)).flatten()


class TestImportance:
    def test_of_heads_is_the_gradient_of_their_mask(self, course: Course) -> None:
        """By finite differences, in double precision."""
        model = course.project.model.double().requires_grad_(requires_grad=True)
        batch, structure = course.batches[0], read_structure(model)
        scores: dict[str, torch.Tensor] = {}
        course.task_loss(model, batch).backward()
        add_importance(structure, scores)
        site = structure.sites[2]
        for head in range(site.units):
            losses = []
            for step in (1e-4, -1e-4):
                moved = read_structure(copy.deepcopy(model))
                weight = moved.consumer_weight(site).detach()
                weight[head * site.unit_width : (head + 1) * site.unit_width] *= 1 + step
                losses.append(course.task_loss(moved.model, batch).item())
            assert float(scores[site.name][head]) == pytest.approx(abs(losses[0] - losses[1]) / 2e-4, rel=1e-3)

    def test_of_neurons_is_its_definition_summed_over_batches(self, course: Course) -> None:
        model = course.project.model.requires_grad_(requires_grad=True)
        structure, scores, expected = course.dense, dict[str, torch.Tensor](), torch.zeros(48)
        up, down = (structure.projection(f"encoder.layer.1.{path}") for path in ("intermediate.dense", "output.dense"))
        for batch in course.batches:
            model.zero_grad()
            course.task_loss(model, batch).backward()
            add_importance(structure, scores)
            into = (up.weight * up.weight.grad).sum(1) + up.bias * up.bias.grad
            expected += (into.abs() + (down.weight * down.weight.grad).sum(0).abs()).detach()
        torch.testing.assert_close(scores["encoder.layer.1.ffn"].float(), expected)


class TestLosses:
    def test_of_predictions_and_hidden_states_are_those_of_the_paper(self, tiny_bert: TinyBert) -> None:
        model, teacher, student = tiny_bert(num_labels=3), torch.randn(2, 3), torch.randn(2, 3)
        batch = inputs(model, (11, 9))
        known, own = (predictions(ModelOutput(logits=each), batch, model) for each in (teacher, student))
        by_hand = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(soft_loss(known, own), by_hand)
        first, second, real = torch.randn(2, 4, 5), torch.randn(2, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        expected = (first - second).square()[real.bool()].mean()
        torch.testing.assert_close(hidden_loss([(first, second)] * 2, real.bool()), 2 * expected)

    def test_augmented_rows_keep_their_marks_and_labels(
        self, course: Course, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        rows = course.features
        more = augmented(rows, course.project.model, tokenizer, 2, seed=0)
        assert list(more[: len(rows)]) == list(rows)
        assert len(more) == 3 * len(rows)
        special = set(tokenizer.all_special_ids)
        changed = 0
        for copied, row in zip(more[len(rows) :], [*rows, *rows], strict=True):
            assert copied["labels"] == row["labels"]
            for new, old in zip(copied["input_ids"], row["input_ids"], strict=True):
                assert (new == old) or not {new, old} & special
                changed += new != old
        assert changed > 50


class TestGates:
    def gated(self, kind: str) -> PreTrainedModel:
        """With gates that decide at random: about half of all units for each row."""
        model = with_gates(read_structure(tiny_model(kind, "sequence classification")), seed=0).eval()
        generator = torch.Generator().manual_seed(1)
        for gate in gates(model).values():
            for parameter in gate.last.parameters():
                parameter.data = torch.randn(parameter.shape, generator=generator)
        return model

    @pytest.mark.parametrize("kind", ENCODERS)
    def test_a_row_is_computed_as_by_the_model_cut_for_it(self, kind: str, tmp_path: Path) -> None:
        dense, model = tiny_model(kind, "sequence classification"), self.gated(kind)
        batch = inputs(model, (11, 9, 6))
        together = logits(model(**batch))
        masks = decided(model)
        assert len({tuple(torch.cat([each[row] for each in masks.values()]).tolist()) for row in range(3)}) > 1
        for row, length in enumerate((11, 9, 6)):
            structure = read_structure(dense).copied()
            cut(structure, {site.name: masks[site.name][row].bool() for site in structure})
            alone = {name: values[row : row + 1, :length] for name, values in batch.items()}
            expected = logits(structure.model(**alone))
            torch.testing.assert_close(together[row : row + 1], expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(logits(model(**alone)), expected, atol=1e-5, rtol=0)
        loaded = AutoModelForSequenceClassification.from_pretrained(checkpoint.write(model, tmp_path / "gated"))
        assert same_weights(loaded, model)
        assert torch.equal(logits(loaded.eval()(**batch)), together)

    def test_a_row_alone_skips_what_it_does_not_need(self) -> None:
        model = self.gated("bert")
        structure = {name: module for name, module in model.bert.named_modules() if name.endswith("intermediate.dense")}
        seen: list[int] = []
        for module in structure.values():
            module.register_forward_hook(lambda _, __, output: seen.append(output.shape[-1]))
        model(**inputs(model, (9,)))
        kept = [int(each.sum()) for site, each in decided(model).items() if site.endswith("ffn")]
        assert seen == kept
        assert max(kept) < 24

    def test_the_gradient_goes_straight_through(self) -> None:
        logits = torch.tensor([-2.0, -0.1, 0.3, 4.0], requires_grad=True)
        noise = torch.tensor([3.0, 0.0, -0.2, -1.0])
        hard = straight_through(logits, noise)
        assert hard.tolist() == [1.0, 0.0, 1.0, 1.0]
        hard.sum().backward()
        soft = torch.sigmoid(logits.detach() + noise)
        torch.testing.assert_close(logits.grad, soft * (1 - soft))

    def test_flops_are_counted_with_the_predictors(self, course: Course) -> None:
        """By hand: BERT of width 32, 4 heads of 8, 48 neurons, at 10 tokens."""
        counted = replace(course, sequence_length=10)
        model = with_gates(counted.dense, seed=0).eval()
        accounts = ebert._Accounts(counted, model)
        model(**some_rows(course))
        masks = {site: torch.zeros_like(kept) for site, kept in decided(model).items()}
        masks["encoder.layer.0.attention"][0, :3] = 1
        masks["encoder.layer.2.ffn"][0, :5] = 1
        head, neuron = 2 * 10 * 4 * 32 * 8 + 4 * 10 * 10 * 8, 4 * 10 * 32
        predictors = 3 * (2 * 64 * (32 + 4) + 2 * 64 * (32 + 48))
        total = 3 * (4 * head + 48 * neuron)
        expected = torch.tensor([(3 * head + 5 * neuron + predictors) / total, predictors / total])
        torch.testing.assert_close(accounts.kept(masks), expected)

    def test_wrong_entries_and_another_pruning_are_refused(self) -> None:
        model = self.gated("bert")
        with pytest.raises(UnsupportedModel, match="decides row by row"):
            read_structure(model)
        with pytest.raises(UnsupportedModel, match="is a decoder"):
            with_gates(read_structure(tiny_model("gpt2", "sequence classification")), seed=0)
        config = model.config.quantization_config
        site, entry = next(iter(config.gates.items()))
        for wrong in ({"units": 0}, {"hidden": True}, {"producers": {}}, {"pool": "last"}, {"sizes": {"a.b": -1}}):
            with pytest.raises(ValueError, match="gate"):
                type(config)(gates={site: entry | wrong})
        model.config.quantization_config = type(config)(gates={site: entry | {"units": 5}})
        with pytest.raises(ValueError, match=r"the gate of encoder\.layer\.0\.attention is for 5 "):
            type(model)._from_config(model.config)


class TestRuns:
    @pytest.mark.parametrize(
        "name", ["dynabert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("polish", "ebert"))]
    )
    def test_a_killed_run_goes_on_to_the_same_weights(self, course: Course, name: str) -> None:
        options: dict[str, Any] = {
            "dynabert": {"widths": "1,0.5", "depths": "1,0.5", "depth_epochs": 2},
            "ebert": {"epochs": 2},
            "polish": {"epochs": 2, "calibration_tokens": 200},
        }[name]
        recipe = plugins.load("recipes", name)(learning_rate=1e-3, batch_size=16, **options)
        whole = next(recipe.make(course, [Budget(flops=0.5)]))
        parts = replace(course, folder=course.folder.with_name("parts"), spent={}, trainings={})
        stage = {"dynabert": "depth", "ebert": "training-0.5", "polish": "polishing-flops-0.5"}[name]
        killed = replace(parts, project=replace(parts.project, progress=interrupted_after(4, stage)))
        with pytest.raises(KeyboardInterrupt):
            next(recipe.make(killed, [Budget(flops=0.5)]))
        resumed = replace(parts, resume=True)
        left = next(recipe.make(resumed, [Budget(flops=0.5)]))
        assert resumed.trainings[stage]["resumed_at_step"] == 3
        assert same_weights(left.model, whole.model)
        assert left.chosen == whole.chosen

    def test_one_training_serves_all_budgets(self, course: Course) -> None:
        recipe = plugins.load("recipes", "dynabert")(width_epochs=1, depth_epochs=1, learning_rate=1e-3)
        budgets = [Budget(flops=0.6), Budget(flops=0.2)]
        lefts = list(recipe.make(course, budgets))
        assert [left.shared_by for left in lefts] == [2, 2]
        assert list(course.trainings) == ["width", "depth"]
        for budget, left in zip(budgets, lefts, strict=True):
            result = judged(course, "dynabert", recipe, budget, left, course.project)
            assert result.facts.pruning.budget.reached <= budget.keep_fraction
            assert left.model.config.num_hidden_layers == len(left.chosen["blocks"])
            assert result.facts.from_json(result.manifest) == result.facts
        assert list(result.facts.recipe.cpu_seconds) == ["rewiring", "width", "depth", "choosing"]
        new = replace(course, spent={}, trainings={})
        with pytest.raises(UnreachableTarget, match="smallest sub-network keeps"):
            next(recipe.make(new, [Budget(flops=0.05)]))
        assert not new.spent

    @pytest.mark.slow
    def test_labels_alone_train_without_distillation(self, course: Course) -> None:
        recipe = plugins.load("recipes", "dynabert")(
            distil=False, augment=1, final_epochs=1, width_epochs=1, depth_epochs=1, learning_rate=1e-3
        )
        left = next(recipe.make(course, [Budget(params=0.6)]))
        assert list(course.trainings) == ["width", "depth", "final"]
        assert left.kept["params"] <= 0.6
        assert course.trainings["depth"]["losses"][0]["loss"] > course.trainings["final"]["losses"][0]["loss"]

    def test_gates_learn_what_was_asked_for(self, course: Course) -> None:
        recipe = plugins.load("recipes", "ebert")(epochs=6, batch_size=8, predictor_rate=0.1, learning_rate=1e-4)
        model = with_gates(course.dense, seed=0)
        at_first = 1 + sum(gate.entry.flops for gate in gates(model).values()) / course.prices("flops").total
        left = next(recipe.make(course, [Budget(flops=0.6)]))
        assert left.kept["flops"] < 0.8 * at_first
        assert left.dynamic is not None
        assert left.dynamic.flops_low <= left.kept["flops"] <= left.dynamic.flops_high
        times = left.dynamic.times["1"]
        share = times["pruned"].median_ms / times["dense"].median_ms
        assert f"not smaller on disk; as measured, rows take 1 at once {share:.2f} times as long" in left.warnings[0]


class TestPolish:
    def test_comes_nearer_to_the_dense_model_and_needs_no_labels(self, course: Course) -> None:
        rows = course.project.calibration_rows.remove_columns("label")
        unlabelled = replace(course, project=replace(course.project, calibration_rows=rows))
        recipe = plugins.load("recipes", "polish")(calibration_tokens=200, epochs=16, learning_rate=1e-3, batch_size=16)
        left = next(recipe.make(unlabelled, [Budget(flops=0.4)]))
        assert left.kept["flops"] <= 0.4
        assert left.chosen["kl_after"] < 0.9 * left.chosen["kl_before"]
        assert not any("no pass" in warning for warning in left.warnings)
        dense, small = course.project.model, left.model
        guard = course.project.task.encode(course.project.guard_rows, course.project.tokenizer)
        total = 0.0
        for row in guard:
            batch = make_batches([row], course.project.tokenizer, "cpu")[0]
            with torch.no_grad():
                p, q = (logits(each(**batch)).double().softmax(-1) for each in (dense, small))
            total += float((p * (p / q).log()).sum())
        assert total / len(guard) == pytest.approx(left.chosen["kl_after"], rel=1e-3)

    def test_keeps_what_it_began_with_where_training_does_harm(self, course: Course) -> None:
        recipe = plugins.load("recipes", "polish")(calibration_tokens=200, learning_rate=3.0, batch_size=16)
        left = next(recipe.make(course, [Budget(flops=0.5)]))
        pruned = course.project.pruner(calibration_tokens=200, judged=False).prune(Budget(flops=0.5))
        assert left.chosen["kl_after"] == left.chosen["kl_before"]
        assert course.trainings["polishing-flops-0.5"]["best_step"] == 0
        assert "no pass brought the model nearer" in left.warnings[-1]
        assert same_weights(left.model, pruned.model)

    def test_takes_as_long_as_it_may(self, course: Course) -> None:
        recipe = plugins.load("recipes", "polish")(calibration_tokens=200, minutes=1e-9, batch_size=8)
        next(recipe.make(course, [Budget(flops=0.5)]))
        assert course.trainings["polishing-flops-0.5"]["steps"] == 1

    def test_goes_on_for_as_long_as_it_began_with(self, course: Course) -> None:
        course.folder.mkdir()
        (course.folder / "polishing-flops-0.5.json").write_text('{"epochs": 1}')
        recipe = plugins.load("recipes", "polish")(calibration_tokens=200, batch_size=16)
        next(recipe.make(replace(course, resume=True), [Budget(flops=0.5)]))
        assert course.trainings["polishing-flops-0.5"]["epochs"] == 1

    def test_learns_without_dropout(self, course: Course) -> None:
        student = course.project.model.train()
        lesson = polish._Lesson(course, student, hidden=1.0)
        assert float(next(lesson.losses(student, some_rows(course))).detach()) == pytest.approx(0, abs=1e-6)

    def test_half_of_the_batches_are_of_other_words(self, course: Course) -> None:
        lesson, batch = polish._Lesson(course, course.project.model, hidden=1.0), some_rows(course)
        plain = {name: values for name, values in batch.items() if name != "labels"}
        torch.manual_seed(0)
        found = [lesson._varied(plain) for _ in range(100)]
        unchanged = sum(torch.equal(each["input_ids"], plain["input_ids"]) for each in found)
        assert 35 <= unchanged <= 65
        assert all(torch.equal(each["attention_mask"], plain["attention_mask"]) for each in found)

    @pytest.mark.parametrize("name", ["polish", "p_pruning"])
    def test_looks_at_no_labels(self, name: str) -> None:
        with pytest.raises(InvalidOption, match="mask_tuning needs labels"):
            plugins.load("recipes", name)(method="mask_tuning")

    def test_hidden_states_count_as_shares_of_the_teachers(self) -> None:
        states = torch.randn(2, 2, 2, 3, 5)
        real = torch.tensor([[True, True, False], [True, True, True]])
        by_layer = [
            float((student - teacher)[real].square().sum() / teacher[real].square().sum())
            for student, teacher in states
        ]
        found = relative_hidden_loss([(student, teacher) for student, teacher in states], real)
        assert float(found) == pytest.approx(sum(by_layer) / 2, rel=1e-5)
