"""A compare file says what is wrong with it, in which line, before anything is computed."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from trimformer import plugins
from trimformer.compare.plan import Plan, read_plan
from trimformer.compare.published import read_published
from trimformer.compare.settings import read_settings
from trimformer.errors import InvalidOption
from trimformer.tasks.language_modeling import LanguageModeling

GOOD = """\
tasks:
  first: {task: sst2, model: some/model, revision: abc, data_revision: def}
methods:
  kprune:
  no tuning: {method: kprune, options: {tune: false}, vary: {gamma: [1, 2.5]}}
budgets: [0.6, 0.4]
seeds: [0, 3]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "plan.yaml"


def test_a_method_may_have_its_own_seeds(file: Path) -> None:
    file.write_text(GOOD.replace("  kprune:\n", "  kprune: {seeds: [7]}\n"))
    assert {cell.seed for cell in read_plan(file).cells() if cell.contender.label == "kprune"} == {7}


def test_cells_are_every_combination(file: Path) -> None:
    file.write_text(GOOD)
    plan = read_plan(file)
    labels = ["kprune", "no tuning", "no tuning gamma=1", "no tuning gamma=2.5"]
    assert [contender.label for contender in plan.contenders] == labels
    assert len({cell.key for cell in plan.cells()}) == 1 * 4 * 2 * 2
    assert plan.contenders[1].options["tune"] is False
    assert plan.contenders[3].options | {"gamma": 2.0} == plan.contenders[1].options
    assert plan.contenders[3].varied == ("no tuning", "gamma", 2.5)
    source = plan.subjects[0].model
    assert source is not None
    assert (source.name, source.revision, source.local) == ("some/model", "abc", False)


@pytest.mark.parametrize("written", ["[60%, 40%]", "{flops: [60%, 0.4]}", '["0.6", 40 %]'])
def test_budgets_in_per_cent(file: Path, written: str) -> None:
    file.write_text(GOOD.replace("[0.6, 0.4]", written))
    assert [budget.keep_fraction for budget in read_plan(file).budgets] == [0.6, 0.4]


def test_budgets_of_several_costs(file: Path) -> None:
    file.write_text(GOOD.replace("[0.6, 0.4]", "{flops: [0.6], params: [0.5, 0.4]}"))
    assert [(budget.cost, budget.asked) for budget in read_plan(file).budgets] == [
        ("flops", "0.6"),
        ("params", "0.5"),
        ("params", "0.4"),
    ]


def test_any_number_of_neurons_stays_unless_the_file_says_otherwise(file: Path) -> None:
    assert [plan_of(file, more).budgets[0].round_to for more in ("", "round_to: 16\n")] == [1, 16]


def plan_of(file: Path, more: str) -> Plan:
    file.write_text(GOOD + more)
    return read_plan(file)


def test_paths_are_relative_to_the_file(file: Path) -> None:
    (file.parent / "rows").mkdir()
    file.write_text(GOOD.replace("data_revision: def", "data: rows"))
    data = read_plan(file).subjects[0].data
    assert data is not None
    assert Path(data.name) == file.parent / "rows"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("methods:", "metods:", ["line 3", "unknown key 'metods'", "Did you mean 'methods'"]),
        ("options:", "opions:", ["line 5", "Did you mean 'options'"]),
        ("tune: false", "tuen: false", ["line 5", "unknown option of kprune 'tuen'", "Did you mean 'tune'"]),
        ("tune: false", "tune: maybe", ["line 5", "true or false"]),
        ("task: sst2", "task: sst3", ["line 2", "unknown task 'sst3'", "Did you mean 'sst2'"]),
        ("  kprune:\n", "  kprun:\n", ["line 4", "unknown method 'kprun'", "Did you mean 'kprune'"]),
        ("[0.6, 0.4]", "[0.6, 4]", ["line 6", "flops=4", "(0, 1]"]),
        ("[0.6, 0.4]", "{flop: [0.6]}", ["line 6", "unknown key 'flop'", "Did you mean 'flops'"]),
        ("[0.6, 0.4]", "[]", ["no budgets"]),
        ("[0.6, 0.4]", "[0.6]\nround_to: 0", ["line 7", "round_to=0"]),
        ("[0, 3]", "[0, x]", ["line 7", "`seed='x'` must be a whole number"]),
        ("model: some/model, revision: abc, ", "", ["line 2", "model:"]),
        ("{task: sst2,", "{task: sst2, sequence_length: long,", ["line 2", "sequence_length='long'", "number"]),
        ("{task: sst2,", "{task: sst2, task: qqp,", ["line 2", "'task' is there twice"]),
        ("{task: sst2,", "{task: sst2, finetune: {learning_rat: 1},", ["line 2", "Did you mean 'learning_rate'"]),
        ("{task: sst2,", "{task: sst2, finetune: {num_train_epochs: },", ["line 2", "num_train_epochs=None"]),
        ("vary: {gamma: [1, 2.5]}", "vary: {gamma: [-1]}", ["line 5", "gamma=-1", "above 0"]),
        ("vary: {gamma: [1, 2.5]}", "prune: early", ["line 5", "prune='early'", "finetuned, pretrained"]),
        ("vary: {gamma: [1, 2.5]}", "prune: pretrained", ["line 2", "pretrained:", "line 5"]),
        ("  kprune:\n", "  kprune: 3\n", ["line 4", "keys and values"]),
        ("budgets: [", "budgets: ]", ["line 6"]),
        ("seeds: [0, 3]", "seeds: !!python/object/apply:os.getcwd []", ["plan.yaml"]),
        ("seeds:", "published: none.yaml\nseeds:", ["line 7", "none.yaml", "check the path"]),
        ("method: kprune,", "method: ebert, prune: pretrained,", ["line 5", "leave out prune:"]),
        ("method: kprune,", "method: mask_tuning, prune: pretrained,", ["line 5", "mask_tuning needs a fine-tuned"]),
        ("method: kprune,", "method: kprune, train: {rows: 8},", ["line 5", "only what trains takes train:"]),
        ("method: kprune,", "method: 3,", ["line 5", "method=3 must be text"]),
        ("[0.6, 0.4]", "[60 percent]", ["line 6: '60 percent' is no share: give a number such as 0.4, or 40%"]),
        ("[0.6, 0.4]", "[0.6, 60%]", ["line 6: 0.6 is there twice in budgets"]),
        ("seeds: [0, 3]", "seeds: [0, 3, 0]", ["line 7: 0 is there twice in seeds"]),
        ("vary: {gamma: [1, 2.5]}", "vary: {gamma: [1, 1]}", ["1 is there twice in gamma"]),
    ],
    ids=str,
)
def test_mistakes_name_their_line(file: Path, old: str, new: str, said: list[str]) -> None:
    assert GOOD.count(old) >= 1
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InvalidOption) as caught:
        read_plan(file)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize("content", ["", "- 1\n", "text", "\x00"])
def test_files_that_are_no_mapping(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(InvalidOption, match=r"plan\.yaml"):
        read_settings(file)


def test_published_numbers(file: Path) -> None:
    file.write_text(
        dedent("""\
        name: the paper
        source: Somebody, table 1
        dense: {sst2: 0.9}
        metrics:
          sst2:
            kprune: {0.4: 0.85}
        speedups:
          kprune: {sst2: 2}
        """)
    )
    published = read_published(file)
    assert published.metrics == {("sst2", "kprune", 0.4): 0.85}
    assert published.speedups == {("kprune", "sst2"): 2.0}
    assert published.methods(["sst2"]) == ["kprune"]
    assert published.methods(["mrpc"]) == []
    file.write_text(file.read_text().replace("source: Somebody, table 1\n", ""))
    with pytest.raises(InvalidOption, match="no source"):
        read_published(file)


@pytest.mark.parametrize(("old", "new", "line"), [("0.85", "good", 6), ("0.4:", "much:", 6)])
def test_published_numbers_must_be_numbers(file: Path, old: str, new: str, line: int) -> None:
    file.write_text(
        "name: a\nsource: b\ndense:\n  sst2: 1\nmetrics:\n  sst2: {kprune: {0.4: 0.85}}\n".replace(old, new)
    )
    with pytest.raises(InvalidOption, match=f"line {line}"):
        read_published(file)


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECIPES = sorted(file for file in BENCHMARKS.rglob("*.yaml") if file.parent.name != "published")
NUMBERS = sorted(BENCHMARKS.rglob("published/*.yaml"))


def name(file: Path) -> str:
    return str(file.relative_to(BENCHMARKS))


def test_there_are_recipes() -> None:
    assert len(RECIPES) > 10
    assert len(NUMBERS) > 3


@pytest.mark.parametrize("file", RECIPES, ids=name)
def test_recipes_can_be_read(file: Path) -> None:
    plan = read_plan(file)
    assert list(plan.cells())
    for subject in plan.subjects:
        for source in (subject.model, subject.pretrained):
            assert source is None or source.local or len(source.revision or "") == 40
        assert subject.data is not None or len(subject.data_revision or "") == 40


def shares_of(plan: Plan) -> list[str]:
    """Labels of tasks whose metric is a share or a correlation, not a perplexity."""
    return [one.label for one in plan.subjects if not isinstance(plugins.load("tasks", one.task), LanguageModeling)]


@pytest.mark.parametrize("file", NUMBERS, ids=name)
def test_published_numbers_are_of_some_recipe(file: Path) -> None:
    """A label that no recipe has would never be printed."""
    published = read_published(file)
    using = [plan for plan in map(read_plan, RECIPES) if published in plan.published]
    tasks = {subject.label for plan in using for subject in plan.subjects}
    methods = {contender.label for plan in using for contender in plan.contenders}
    assert {task for task, _, _ in published.metrics} | {task for _, task in published.speedups} <= tasks
    assert set(published.methods(tasks)) | {method for method, _ in published.speedups} <= methods
    of_share = {label for plan in using for label in shares_of(plan)}
    values = [(task, value) for (task, *_), value in published.metrics.items()] + list(published.dense.items())
    assert all(0 < value <= 1 for task, value in values if task in of_share)
    assert all(value > 1 for task, value in values if task not in of_share)


def test_the_numbers_published_of_opt_stand_beside_ours() -> None:
    plan = read_plan(BENCHMARKS / "papers" / "kprune-opt.yaml")
    (published,) = plan.published
    asked = {(cell.subject.label, cell.contender.label, cell.budget.keep_fraction) for cell in plan.cells()}
    assert published.metrics.keys() <= asked
    changes = [
        published.metrics["opt-2.7b", "kprune", share] / published.dense["opt-2.7b"] - 1 for share in (0.95, 0.8)
    ]
    assert changes == pytest.approx([-0.0185, 0.0040], abs=1e-4)
