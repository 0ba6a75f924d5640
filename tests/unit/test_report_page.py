"""The report: every fact is in the page, nothing else is needed to show it, and nothing in the facts can break it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from example_facts import HOSTILE, facts, metric, plain_facts, run, runs
from trimformer.errors import CheckpointError, DataError
from trimformer.judging.manifest import Manifest
from trimformer.report import page as report
from trimformer.report import pictures, side_by_side, summary
from trimformer.report.units import blocks, removed

VOID = {"meta", "br", "wbr", "hr", "img", "link", "input"}
SWEEP = (0.8, 0.5, 0.2)


class Page(HTMLParser):
    """What is in a page; complains where it is not well-formed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def make(kind: str, **changes: Any) -> str:
    if kind == "checkpoint":
        return report.checkpoint_page(facts(**changes), "smaller")
    if kind == "sweep":
        return report.sweep_page([facts(share, **changes) for share in SWEEP])
    return report.comparison_page("Three methods", runs(**changes), command=changes.get("command"))


every_kind = pytest.mark.parametrize("kind", ["checkpoint", "sweep", "comparison"])


@every_kind
def test_the_page_is_well_formed_and_needs_nothing_else(kind: str) -> None:
    text = make(kind)
    assert text == make(kind)
    page = Page(text)
    assert not re.findall(r"https?:|//[a-z]|@import|url\((?!#)", text)
    assert not {"script", "link", "img", "iframe", "a"} & set(page.tags)
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    used = {value.removeprefix("#") for name, value in page.attributes if name == "href" and value}
    used |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(identifiers)


@every_kind
def test_facts_are_text_and_never_markup(kind: str) -> None:
    hostile = dict.fromkeys(("source", "task", "data", "command", "method"), HOSTILE)
    metrics = {which: {HOSTILE: metric(0.9)} for which in ("dense", "pruned")}
    text = make(kind, **hostile, warnings=[HOSTILE], metrics=metrics, options={HOSTILE: HOSTILE})
    assert "script" not in Page(text).tags
    assert "<script" not in text


def test_options_in_a_warning_are_code() -> None:
    page = report.checkpoint_page(facts(warnings=["use `<b>=5`, or <i>less</i>"]), "my/folder")
    assert "<li>use <code>&lt;b&gt;=5</code>, or &lt;i&gt;less&lt;/i&gt;</li>" in page


def test_every_fact_of_a_checkpoint_is_told() -> None:
    changed = facts(warnings=["beware of this"])
    text = Page(report.checkpoint_page(changed, "my/folder")).text.replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "1.85× faster, 91 → 68 MB, accuracy 0.874 → 0.861 ± 0.02 (n=872)",
        "Keeps 50.0 % of the FLOPs of attention and FFN, 75.0 % of all parameters.",
        "95 % interval, 872 rows",
        "beware of this",
        "at most 50.0 %",
        "49.8 %",
        "22.71 M → 17.04 M",
        "75.0 %",
        "61.2 ms → 33.0 ms",
        "1 2 3 4 5",
        "heads, of 12",
        "neurons, of 1536",
        "768",
        "12.5 s",
        "1382 MB",
        "1134 MB, 890 MB cuda",
        "seed",
        "7",
        "torch 2.13.0",
        "060e51de8f1a1684",  # pragma: allowlist secret
        "damping=0.3",
        'pipeline("text-classification", "my/folder", trust_remote_code=True)',
        "not a measure of speed",
        "2 threads",
    ):
        assert part in text, part
    assert changed.origin.command.split() == re.findall(r"<span>([^<]*)</span>", report.checkpoint_page(changed))


def test_units_are_drawn_one_by_one_and_as_bars() -> None:
    text = report.checkpoint_page(facts())
    cells = re.findall(r'<span class="cells" aria-hidden="true">(.*?)</span>', text)
    drawn = ["".join("#" if 'class="kept"' in cell else "." for cell in re.findall(r"<i[^>]*>", row)) for row in cells]
    assert drawn == list(facts().pruning.patterns.values())
    assert text.count('<i style="width:50.0%"></i>') == len(facts().pruning.units)


def test_a_page_without_what_was_not_measured() -> None:
    left_out = ("metrics", "latency", "curves", "patterns", "memory_mb", "command", "task", "data", "source")
    bare = Manifest.from_json({key: value for key, value in plain_facts().items() if key not in left_out})
    text = Page(report.checkpoint_page(bare)).text
    assert "Removal curves" not in text
    assert "Metrics before" not in text
    assert "fast" not in text
    assert "FLOPs halved, 91 → 68 MB" in text
    assert "not measured" in text
    Page(report.sweep_page([bare, bare]))


def test_a_guard_tells_what_was_asked_for() -> None:
    guard = {"max_drop": 0.01, "drop": 0.0083, "rows": 500, "metric": "f1", "low": -0.004, "high": 0.021}
    text = Page(report.checkpoint_page(facts(guard=guard))).text
    assert "drop in f1, 500 guard rows at most 0.01 0.0083 (95 % interval -0.0040 to 0.0210)" in text
    assert "at most 50.0" not in text


def test_no_speed_is_claimed_from_counts() -> None:
    text = report.checkpoint_page(facts(latency={"dense": latency_of(50.0), "pruned": latency_of(52.0)}))
    assert "1.04× slower, " in text
    assert "faster" not in text
    assert "<strong>104.0\N{NO-BREAK SPACE}%</strong>" in text


def latency_of(median_ms: float) -> dict[str, Any]:
    return plain_facts()["latency"]["dense"] | {"median_ms": median_ms}


def test_overlap_of_intervals_is_said_as_it_is() -> None:
    far = facts(metrics={"dense": {"f1": metric(0.9)}, "pruned": {"f1": metric(0.5)}})
    assert "The f1 intervals of both models do not overlap." in summary.remarks(far)
    assert "The accuracy intervals of both models overlap." in summary.remarks(facts())


def difference(value: float, low: float, high: float) -> dict[str, Any]:
    return {"accuracy": {"value": value, "sample_size": 872, "low": low, "high": high}}


def test_a_loss_is_judged_by_the_interval_of_the_difference() -> None:
    """Intervals of both models overlap where the same rows tell a loss: 10 that only one answers, 1 that only one."""
    certain, chance = difference(0.028, 0.009, 0.047), difference(0.006, -0.01, 0.019)
    said = "Over the same rows the accuracy is worse by {} (95 % interval of the difference {}): {} chance may make."
    assert said.format("0.0280", "0.0090 to 0.0470", "more than") in summary.remarks(facts(lost=certain))
    assert said.format("0.0060", "-0.0100 to 0.0190", "no more than") in summary.remarks(facts(lost=chance))
    gained = said.replace("worse", "better").format("0.0280", "0.0090 to 0.0470", "more than")
    assert gained in summary.remarks(facts(lost=difference(-0.028, -0.047, -0.009)))
    page = Page(report.sweep_page([facts(0.5, lost=chance), facts(0.2, lost=certain)])).text
    held = "accuracy may be the dense model's or better, by the interval of the difference (95 %), keeps 50.0 %"
    assert held in page.replace("\N{NO-BREAK SPACE}", " ")


def test_what_was_done_once_for_all_sizes_is_listed_once() -> None:
    seconds = {"ordering": 3.5, "measuring": 12.5, "pruning": 20.25, "judging": 8.0}
    stages = side_by_side.sweep_stages([facts(share, seconds=seconds) for share in SWEEP])
    assert [stage.key for stage in stages] == ["ordering", "measuring", *["pruning", "judging"] * len(SWEEP)]
    others = side_by_side.sweep_stages([facts(share, seconds=seconds | {"measuring": share}) for share in SWEEP])
    assert [stage.key for stage in others].count("measuring") == len(SWEEP)


def test_a_sweep_says_down_to_where_the_metric_holds() -> None:
    text = Page(report.sweep_page([facts(share) for share in SWEEP])).text.replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "3 sizes keep 80.0 % to 20.0 % of the FLOPs of attention and FFN. The smallest: 3.79× faster, 91 → 55 MB, "
        in text
    )
    assert "accuracy may be the dense model's or better, by its own interval (95 %), keeps 50.0 %" in text
    assert "50.0 % of FLOPs" in text


def test_a_perplexity_that_fell_holds_and_its_picture_is_logarithmic() -> None:
    def of(share: float, value: float) -> Manifest:
        interval = {"low": 0.95 * value, "high": 1.05 * value}
        metrics = {"dense": {"perplexity": metric(60.0)}, "pruned": {"perplexity": metric(value) | interval}}
        return facts(share, metrics=metrics)

    page = report.sweep_page([of(0.8, 50.0), of(0.5, 62.0), of(0.2, 3e7)])
    text = Page(page).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "perplexity may be the dense model's or better, by its own interval (95 %), keeps 50.0 %" in text
    assert "3.0e+07" in text
    assert "perplexity, lower is better" in page


def test_logarithmic_axes_have_plain_numbers() -> None:
    curves = {f"encoder.layer.{block}.ffn": [0.0, 1e-3, 0.02, 0.3 + block] for block in range(2)}
    picture = pictures.removal("ffn", curves, {})
    assert {"0.001", "0.01", "0.1", "1"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", picture))
    axes = Figure().subplots()
    axes.plot([0, 1e-3, 5], [0, 1, 2])
    pictures.logarithmic(axes, "x", linear_to=1e-4)
    axes.figure.canvas.draw()
    assert {"0", "0.0001", "0.01", "1"} <= {label.get_text() for label in axes.get_xticklabels()}


def test_a_sweep_over_several_costs_names_each() -> None:
    by_parameters = {"cost": "params", "asked": 0.3, "reached": 0.298, "round_to": 1}
    text = Page(report.sweep_page([facts(0.8), facts(0.3, budget=by_parameters)])).text.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "2 sizes keep 80.0 % to 30.0 % of the FLOPs" in text
    assert "80.0 % of FLOPs" in text
    assert "30.0 % of parameters" in text


def test_a_comparison_has_means_over_seeds() -> None:
    values = iter((0.80, 0.90))
    several = [
        run(seed=seed, metrics={"dense": {"f1": metric(0.9)}, "pruned": {"f1": metric(next(values))}})
        for seed in (0, 1)
    ]
    text = Page(report.comparison_page("One", several, failures=["kprune on sst2 failed"])).text
    assert "1 method, 1 size, 1 task, 2 seeds: 2 runs." in text
    assert "0.8500 0.8000– 0.9000" in text
    assert "kprune on sst2 failed" in text


def test_a_comparison_without_results_is_an_error() -> None:
    with pytest.raises(DataError, match="no run"):
        report.comparison_page("None", [])


def test_pages_of_folders(tmp_path: Path) -> None:
    (tmp_path / "trimformer.json").write_text(json.dumps(plain_facts()))
    assert report.from_folder(tmp_path) == report.checkpoint_page(facts(), str(tmp_path))
    (tmp_path / "frontier.json").write_text(json.dumps([plain_facts(share) for share in SWEEP]))
    assert report.from_folder(tmp_path) == report.sweep_page([facts(share) for share in SWEEP])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"budget": 3}', '{"method": "x"}'])
@pytest.mark.parametrize("name", ["trimformer.json", "frontier.json"])
def test_damaged_facts_are_an_error_in_one_line(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name} is damaged"):
        report.from_folder(tmp_path)


def test_a_folder_without_facts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither trimformer\.json nor frontier\.json"):
        report.from_folder(tmp_path)


def test_pages_replace_others_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    report.check_page_writable(out, overwrite=False)
    report.write_page("one", out)
    with pytest.raises(CheckpointError, match=r"page\.html exists.*`overwrite=True`"):
        report.check_page_writable(out, overwrite=False)
    report.check_page_writable(out, overwrite=True)
    report.write_page("two", out)
    assert out.read_text() == "two"
    assert list(out.parent.iterdir()) == [out]
    with pytest.raises(CheckpointError, match="cannot be written"):
        report.check_page_writable(tmp_path, overwrite=True)
    with pytest.raises(CheckpointError, match=r"page\.html is a file"):
        report.check_page_writable(out / "below-a-file.html", overwrite=True)


def test_several_feed_forward_layers_of_a_block_are_neurons() -> None:
    units = [{"block": 0, "head": 3, "head_of": 4, "neuron": 5, "neuron_of": 6}]
    site, curve = "encoder.layer.0", [0.0, 1.0]
    patterns = {f"{site}.attention": "###.", f"{site}.ffn_0": "#.", f"{site}.ffn_1": "##", f"{site}.ffn": "##"}
    curves = {f"{site}.attention": curve, f"{site}.ffn_0": curve}
    of = facts(units=units, patterns=patterns, curves=curves)
    ((_, (heads, neurons)),) = blocks(of)
    assert (heads.kind, heads.cells) == ("head", "###.")
    assert (neurons.kind, neurons.cells) == ("neuron", "#.####")
    assert removed(of) == {f"{site}.attention": pytest.approx(1 / 4), f"{site}.ffn_0": pytest.approx(1 / 6)}
