"""Heads turned so that their dimensions come in the order of their use: fewer of each can then do the work of all.

Any invertible map of a head's queries, with its counterpart on the keys, leaves all scores as they were; any of its
values, with its counterpart in the output projection, leaves what the head adds. Here they are chosen by singular value
decompositions of what queries and keys, and values and output, have in common, on a part of the calibration rows.

Source: ours. Nearest relatives: SliceGPT (arXiv 2401.15024), which turns the residual stream, and ASVD (arXiv
2312.05821), which decomposes single weights by what they read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimformer import plugins, processes
from trimformer.data.batches import every
from trimformer.data.rows import Batch
from trimformer.errors import InvalidOption
from trimformer.model.offload import is_offloaded
from trimformer.model.sites import Site
from trimformer.model.slots import can_narrow, read_by_dimension
from trimformer.model.structure import Structure, features_first, read_structure
from trimformer.observing.calibration import Calibration
from trimformer.observing.moments import moments
from trimformer.observing.watching import frozen
from trimformer.pruning.budget import Budget, MeasuredCost
from trimformer.pruning.choose.curves import REMEDY, damped
from trimformer.pruning.contract import Method, NarrowsHeads
from trimformer.pruning.factors import factor_of
from trimformer.pruning.sizes import Sizes

ONE_IN = 8
"""Rows of which one tells how to turn."""
DAMPING = 0.3
"""Of the gradients' second moment, the metric in which outputs are compared; relative to its mean diagonal."""
RIDGE, SMALLEST = 1e-6, 1e-12
"""Of covariances within a head, relative to their mean diagonal, and at least, so that they can be inverted."""
QUERIES, KEYS, VALUES = range(3)


def by_turned_dimension(dense: Structure) -> Structure:
    """Read a copy of a model with dimensions of heads as units, to be turned by `turn`; it shares all other weights."""
    found = read_by_dimension(dense)
    paths = [path for site in found if site.head_width for path in (*(p.path for p in site.producers), site.consumer)]
    own = {id(weight) for path in paths for weight in found.module(path).parameters()}
    shared: dict[int, Any] = {id(each): each for each in dense.model.parameters() if id(each) not in own}
    return read_structure(copy.deepcopy(dense.model, shared), found.architecture)


def narrows_heads(
    dense: Structure, name: str, method: Method, budgets: Sequence[Budget | None], sizes: Sizes | None
) -> bool:
    """Tell whether units are to be dimensions of heads: the method takes them, and all heads may have fewer.

    Heads stay the units where they are asked for by name, where all layers are to have the same sizes, and where time
    is measured: it does not follow from the number of dimensions.

    Raises:
        InvalidOption: heads of a width are asked for, and the method of that name, or a budget, keeps heads whole.
    """
    able = isinstance(method, NarrowsHeads) and method.narrows and not is_offloaded(dense.model)
    whole = any(isinstance(budget, Budget) and _of_whole_heads(budget) for budget in budgets)
    if sizes is not None and sizes.by_dimension:
        if not able or whole:
            why = "a budget of time, or the same sizes in every layer, keeps heads" if able else f"{name} keeps heads"
            raise InvalidOption(f"heads of a width are asked for, and {why} whole: give their number alone")
        return True
    if not able or whole or not budgets or not all(isinstance(budget, Budget) for budget in budgets):
        return False
    if sizes is not None and (sizes.uniform or sizes.about_heads):
        return False
    return any(can_narrow(dense, site) for site in dense.occupied)


def _of_whole_heads(budget: Budget) -> bool:
    return budget.uniform or isinstance(plugins.load("costs", budget.cost), MeasuredCost)


def turned(calibration: Calibration) -> Calibration:
    """Make the same calibration of a copy of the model, with dimensions of heads as units, and heads turned."""
    found = calibration.on(by_turned_dimension(calibration.dense))
    turn(found)
    return found


def turn(calibration: Calibration) -> None:
    """Turn the heads of a model in place; it computes the same as before.

    Args:
        calibration: on a model with dimensions of heads as units, which may be changed.
    """
    sample = replace(calibration, batches=every(calibration.batches, ONE_IN))
    dense = calibration.dense
    turned = [site for site in dense.occupied if site.head_width]
    with frozen(dense.model):
        scores = _score_sums(sample, turned)
        for group in moments(sample, gradients=True, of=lambda site: site.head_width > 0, text="turning heads"):
            for seen in group.values():
                metric = damped((seen.gradients / sample.sequences).cpu(), DAMPING)
                with torch.no_grad(), dense.in_memory(seen.site):
                    _turn_scores(dense, seen.site, *scores[seen.site.name])
                    _turn_values(dense, seen.site, seen.inputs.covariance.cpu(), metric)


@torch.no_grad()
def _score_sums(sample: Calibration, sites: Sequence[Site]) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute the second moment of queries, and the covariance of keys, by site: `(heads, width, width)` each."""
    dense = sample.dense
    sums = {site.name: _PairSums(site, dense.device) for site in sites}
    for batch in sample.progress(sample.share(sample.batches), "comparing queries and keys"):
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(sums[site.name].watching(dense, batch))
            dense.model(**batch)
    return {name: each.moments() for name, each in sums.items()}


class _PairSums:
    """Sums over tokens of queries and keys of one site, head by head."""

    def __init__(self, site: Site, device: torch.device) -> None:
        self.site = site
        shape = (2, site.heads, site.head_width)
        self.squares = torch.zeros(*shape, site.head_width, dtype=torch.float64, device=device)
        self.first = torch.zeros(shape, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(1, dtype=torch.float64, device=device)

    def watching(self, dense: Structure, batch: Batch) -> ExitStack:
        """Within the context, add what the projections of queries and keys put out."""
        stack = ExitStack()

        def add(part: int, first: int, output: Tensor) -> None:
            output = output[..., first : first + self.site.units]
            values = dense.unpadded(output, batch, self.site.chain)
            by_head = values.double().unflatten(-1, (self.site.heads, self.site.head_width))
            self.squares[part] += torch.einsum("thi,thj->hij", by_head, by_head)
            self.first[part] += by_head.sum(0)
            self.tokens += len(values) if part == QUERIES else 0

        for part in (QUERIES, KEYS):
            path, first = self.site.part(part)
            hook = dense.module(path).register_forward_hook(lambda _, __, out, at=part, by=first: add(at, by, out))
            stack.callback(hook.remove)
        return stack

    def moments(self) -> tuple[Tensor, Tensor]:
        """Give the means over all tokens, of all processes, on the CPU."""
        processes.add_up(self.squares, self.first, self.tokens)
        squares, first = (self.squares / self.tokens).cpu(), (self.first / self.tokens).cpu()
        return squares[QUERIES], squares[KEYS] - first[KEYS][:, :, None] * first[KEYS][:, None, :]


def _turn_scores(dense: Structure, site: Site, queries: Tensor, keys: Tensor) -> None:
    """Turn queries and keys so that their products come in falling order of size: `q'ᵀk' = qᵀk`."""
    for head in range(site.heads):
        of_queries, of_keys = _root(queries[head], site), _root(keys[head], site)
        left, sizes, right = _decomposed(of_queries.T @ of_keys)
        scale = sizes.sqrt()[:, None]
        for part, turned, root in ((QUERIES, left.T, of_queries), (KEYS, right, of_keys)):
            _map_outputs(dense, site, part, head, scale * (turned @ torch.linalg.inv(root)))


def _turn_values(dense: Structure, site: Site, covariance: Tensor, metric: Tensor) -> None:
    """Turn values so that what they add comes in falling order of size: `W'ᵀc' = Wᵀc`."""
    factor = factor_of(metric, site.name, REMEDY)
    weight = dense.consumer_weight(site)
    for head in range(site.heads):
        own = slice(head * site.head_width, (head + 1) * site.head_width)
        root = _root(covariance[own, own], site)
        left, sizes, right = _decomposed(root.T @ weight[own].double().cpu() @ factor)
        scale = sizes.sqrt()[:, None]
        added = torch.linalg.solve_triangular(factor, right, upper=False, left=False)
        weight[own] = processes.agreed(scale * added).to(weight)
        _map_outputs(dense, site, VALUES, head, scale * (left.T @ torch.linalg.inv(root)))


def _map_outputs(dense: Structure, site: Site, part: int, head: int, by: Tensor) -> None:
    """Map the outputs of one head of a producer, `(width,)`, by a matrix, `(width, width)`."""
    path, first = site.part(part)
    producer, first = dense.projection(path), first + head * site.head_width
    own = slice(first, first + site.head_width)
    weight, by = features_first(producer), processes.agreed(by)
    weight[:, own] = (weight[:, own].double() @ by.T.to(weight.device)).to(weight)
    if producer.bias is not None:
        producer.bias[own] = (by.to(weight.device) @ producer.bias[own].double()).to(producer.bias)


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a matrix by its singular values, the largest entry of every left vector positive."""
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    return left * signs, sizes, right * signs.T


def _root(covariance: Tensor, site: Site) -> Tensor:
    raised = damped(covariance, RIDGE)
    raised.diagonal().add_(SMALLEST)
    return factor_of(raised, site.name, REMEDY)
