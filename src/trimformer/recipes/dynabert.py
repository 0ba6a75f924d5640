"""DynaBERT: one training for sub-networks of several widths and depths; the best within a budget is cut out.

The most important heads and neurons of every layer are shared by most sub-networks. All of them learn together, by the
predictions and hidden states of the fine-tuned model: first at several widths, then at several depths. Needs labels to
tell what is important; the rest takes none unless distillation is off. Memory is that of training, of one sub-network
at a time.

Source: Hou et al., DynaBERT: Dynamic BERT with Adaptive Width and Depth (NeurIPS 2020, arXiv 2004.04037).

Differs from the authors' code:

- Gradients are set to zero between the batches by which importance is measured; theirs adds them up.
- Units are not moved: a sub-network takes the most important ones where they are, which computes the same.
- Padding does not enter the distance of hidden states.
- The sub-network is chosen on training rows that were set aside, by the task's first metric; theirs reports all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import token_mask
from trimformer.data.rows import Batch
from trimformer.errors import DataError, InvalidOption, UnreachableTarget, require_range
from trimformer.judging.metrics import LOWER_IS_BETTER, Metrics
from trimformer.model.depth import check_depth, cut_out
from trimformer.model.sites import Scores
from trimformer.model.structure import Structure, read_structure
from trimformer.pruning.budget import Budget
from trimformer.training.augmentation import augmented
from trimformer.training.distillation import Shown, hidden_loss, soft_loss
from trimformer.training.finetune import judge
from trimformer.training.recipe import Course, Left, Start, inputs_of
from trimformer.training.stages import PLAIN, Stage
from trimformer.training.subnetworks import SubNetwork, add_importance, spread, widest

Place = tuple[float, float]
"""Width and depth of a sub-network, as shares."""


@dataclass(frozen=True, kw_only=True)
class DynaBERT:
    """Options of the training; those of the paper by default."""

    starts_from: ClassVar[Start] = "finetuned"
    needs_labels: ClassVar[bool] = True
    costs: ClassVar[tuple[str, ...]] = ("flops", "params")

    widths: str = "1,0.75,0.5,0.25"
    """Shares of the heads and neurons of every layer, the first one 1."""
    depths: str = "1,0.75,0.5"
    """Shares of the layers, the first one 1; `1` leaves out the training of depths."""
    width_epochs: float = 3.0
    """Passes over the training rows while widths are trained; above 0."""
    depth_epochs: float = 3.0
    """The same while depths are trained as well; above 0."""
    final_epochs: float = 0.0
    """The same of a last training on labels, without distillation; 0 leaves it out."""
    learning_rate: float = 2e-5
    """Highest learning rate, that of BERT-base; small models take more, such as 1e-4."""
    batch_size: int = 32
    """Rows in a step; at least 1."""
    distil: bool = True
    """False trains all sub-networks on labels, in place of the model's predictions and hidden states."""
    augment: int = 0
    """Further copies of each row to train on, with words replaced by near ones; at least 0."""

    def __post_init__(self) -> None:
        for name in ("widths", "depths"):
            _shares(name, getattr(self, name))
        for name in ("width_epochs", "depth_epochs", "learning_rate"):
            require_range(name, getattr(self, name), low_included=False)
        require_range("final_epochs", self.final_epochs)
        require_range("batch_size", self.batch_size, low=1)
        require_range("augment", self.augment)

    def make(self, course: Course, budgets: Sequence[Budget]) -> Iterator[Left]:
        """Rewire, train widths, train depths; then choose and cut out the best sub-network within each budget."""
        check_depth(course.dense)
        places = [(width, depth) for depth in _shares("depths", self.depths) for width in self._widths]
        _check_reachable(course, places, budgets)
        with course.doing("rewiring"):
            student = copy.deepcopy(course.project.model).requires_grad_(requires_grad=True)
            importance = _importance(course, student)
        whole = read_structure(student)
        networks = {place: _network(whole, importance, place) for place in places}
        trainer = _Lessons(self, course, networks)
        trainer.train("width", student, self.width_epochs, [(width, 1.0) for width in self._widths])
        if len(networks) > len(self._widths):
            trainer.train("depth", student, self.depth_epochs, places)
        if self.final_epochs:
            trainer.train("final", student, self.final_epochs, places)
        yield from _chosen(course, whole, networks, budgets)

    @property
    def _widths(self) -> list[float]:
        return _shares("widths", self.widths)


class _Lessons:
    """The stages of one training: which sub-networks learn, and from whom."""

    def __init__(self, options: DynaBERT, course: Course, networks: dict[Place, SubNetwork]) -> None:
        self.options, self.course, self.networks = options, course, networks

    def train(self, name: str, student: PreTrainedModel, epochs: float, places: Sequence[Place]) -> None:
        """Train a student's sub-networks; in the stage `depth` a copy of it, as it is now, is the teacher."""
        options, course = self.options, self.course
        distils = options.distil and name != "final"
        teacher = copy.deepcopy(student if name == "depth" else course.project.model).eval().requires_grad_(False)  # noqa: FBT003  # torch's own

        def losses(model: PreTrainedModel, batch: Batch) -> Iterator[Tensor]:
            if not distils:
                yield from (self._task_loss(self.networks[place], model, batch) for place in places)
            elif name == "depth":
                yield from self._depth_losses(teacher, model, inputs_of(batch), places)
            else:
                yield from self._width_losses(teacher, model, inputs_of(batch), places)

        labelled = not distils
        rows = course.features if labelled else course.unlabelled
        arguments = {"learning_rate": options.learning_rate, "per_device_train_batch_size": options.batch_size}
        course.train(
            Stage(
                name=name,
                model=student,
                losses=losses,
                features=augmented(rows, course.project.model, course.project.tokenizer, options.augment, course.seed),
                labelled=labelled,
                epochs=epochs,
                arguments={**PLAIN, **arguments},
                measure=lambda model: _mean_metric(course, model, [self.networks[place] for place in places]),
            )
        )

    def _width_losses(
        self, teacher: PreTrainedModel, model: PreTrainedModel, batch: Batch, places: Sequence[Place]
    ) -> Iterator[Tensor]:
        """`CE(student, softmax(teacher)) + 0.1 Σ MSE(h_l, h_l of the teacher)`, of each width."""
        known = Shown.of(teacher, teacher(**batch, output_hidden_states=True), batch)
        for place in places:
            student = Shown.of(model, self.networks[place](model, batch, output_hidden_states=True), batch)
            pairs = list(zip(student.hidden, known.hidden, strict=True))
            yield soft_loss(known.predicted, student.predicted) + WIDTH_HIDDEN * hidden_loss(pairs, token_mask(batch))

    def _depth_losses(
        self, teacher: PreTrainedModel, model: PreTrainedModel, batch: Batch, places: Sequence[Place]
    ) -> Iterator[Tensor]:
        """`CE + Σ MSE(h_i, h_⌊i/depth⌋ of the teacher)`, the teacher having the student's width and full depth."""
        for width in dict.fromkeys(width for width, _ in places):
            with torch.no_grad():
                shown = self.networks[width, 1.0](teacher, batch, output_hidden_states=True)
                known = Shown.of(teacher, shown, batch)
            for place in (place for place in places if place[0] == width):
                network = self.networks[place]
                student = Shown.of(model, network(model, batch, output_hidden_states=True), batch)
                matched = [known.hidden[state] for state in (*network.blocks, -1)]
                pairs = list(zip(student.hidden, matched, strict=True))
                yield soft_loss(known.predicted, student.predicted) + hidden_loss(pairs, token_mask(batch))

    def _task_loss(self, network: SubNetwork, model: PreTrainedModel, batch: Batch) -> Tensor:
        return self.course.task_loss(_Called(network, model), batch)  # type: ignore[arg-type]  # called as a model is


WIDTH_HIDDEN = 0.1
"""Weight of the hidden states while widths are trained; while depths are, it is 1."""


class _Called:
    """A sub-network that is called as a model is."""

    def __init__(self, network: SubNetwork, model: PreTrainedModel) -> None:
        self.network, self.model, self.config = network, model, network.shell.config

    def __call__(self, **batch: Any) -> Any:
        return self.network(self.model, batch)


def _shares(name: str, text: str) -> list[float]:
    """Read shares, the largest first.

    Raises:
        InvalidOption: no numbers, one outside (0, 1], or no 1.
    """
    try:
        found = sorted({float(part) for part in text.split(",")}, reverse=True)
    except (AttributeError, TypeError, ValueError):  # no text, or no numbers in it
        raise InvalidOption(f"`{name}={text!r:.60}` must be a text of shares, such as '1,0.75,0.5'") from None
    for share in found:
        require_range(name, share, high=1.0, low_included=False)
    if found[0] != 1:
        raise InvalidOption(f"`{name}={text!r}` must have 1 among them: the whole model is the teacher")
    return found


def _importance(course: Course, model: PreTrainedModel) -> Scores:
    """Add up the importance of units over all training rows, batch by batch."""
    structure, scores = read_structure(model), dict[str, Tensor]()
    model.eval()
    for batch in course.project.stages(course.batches, "rewiring"):
        model.zero_grad()
        course.task_loss(model, batch).backward()
        add_importance(structure, scores)
    model.zero_grad()
    return scores | {site.name: torch.zeros(0) for site in structure if not site.units}


def _network(whole: Structure, importance: Scores, place: Place) -> SubNetwork:
    width, depth = place
    return SubNetwork(whole, widest(whole, importance, width), spread(len(whole.blocks()), depth))


def _check_reachable(course: Course, places: Sequence[Place], budgets: Sequence[Budget]) -> None:
    """Refuse a budget below the smallest sub-network, before any work: sizes do not depend on what is important."""
    alike = {site.name: torch.zeros(site.units) for site in course.dense}
    smallest = _network(course.dense, alike, min(places))
    for budget in budgets:
        least = course.prices(budget.cost).kept(smallest.masks)
        if least > budget.keep_fraction:
            raise UnreachableTarget(
                f"the smallest sub-network keeps {least:.1%} of the {budget.cost}, but {budget.asked} was asked for: "
                "ask for more, or add smaller `widths` or `depths`"
            )


def _mean_metric(course: Course, model: PreTrainedModel, networks: Sequence[SubNetwork]) -> Metrics:
    """Judge sub-networks on the rows set aside: the mean of the first metric over them, under its name."""
    found = [_judged(course, model, network) for network in networks]
    name, first = next(iter(found[0].items()))
    value = sum(each[name].value for each in found) / len(found)
    return {name: type(first)(value, first.sample_size, value, value)}


def _judged(course: Course, model: PreTrainedModel, network: SubNetwork) -> Metrics:
    rows = course.project.guard_rows
    if rows is None:
        raise DataError("no rows are set aside to choose a sub-network by: use project.with_guard()")
    small = cut_out(read_structure(model), network.masks, network.blocks).eval()
    return judge(replace(course.project, progress=False), small, rows)


def _chosen(
    course: Course, whole: Structure, networks: dict[Place, SubNetwork], budgets: Sequence[Budget]
) -> Iterator[Left]:
    """Give for each budget the sub-network within it that is best on the rows set aside, the smallest of equals."""
    judged: dict[Place, float] = {}
    for budget in budgets:
        prices = course.prices(budget.cost)
        kept = {place: prices.kept(network.masks) for place, network in networks.items()}
        within = [place for place in networks if kept[place] <= budget.keep_fraction * (1 + 1e-9)]
        with course.doing("choosing"):
            for place in course.project.stages([place for place in within if place not in judged], "choosing"):
                name, metric = next(iter(_judged(course, whole.model, networks[place]).items()))
                judged[place] = -metric.value if name in LOWER_IS_BETTER else metric.value
        best = max(within, key=lambda place: (judged[place], -kept[place]))
        network = networks[best]
        yield Left(
            model=cut_out(whole, network.masks, network.blocks).eval(),
            masks=network.masks,
            kept=course.kept_by_cost(network.masks) | {budget.cost: kept[best]},
            chosen={"width": best[0], "depth": best[1], "blocks": network.blocks, "compared": len(within)},
            work=tuple(course.spent),
            shared_by=len(budgets),
        )


PROVIDES = {"dynabert": DynaBERT}
