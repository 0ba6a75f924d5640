"""What the package computes from running sums, computed here the long way: float64, nothing padded, all tokens kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from trimformer.data.rows import Batch
from trimformer.model.sites import Masks, Scores, Site
from trimformer.model.structure import Structure, read_structure

Factors = dict[str, Tensor]
"""A number by unit that its output is multiplied by: 1 for a unit as it is, 0 for one that is pruned."""


def double(model: PreTrainedModel) -> Structure:
    """A copy in float64."""
    return read_structure(copy.deepcopy(model).double().eval().requires_grad_(requires_grad=False))


def without_padding(batches: list[Batch]) -> list[Batch]:
    """The same rows in the same order, those of one length that follow each other together."""
    return [
        {name: values[batch["attention_mask"].sum(1) == length, :length] for name, values in batch.items()}
        for batch in batches
        for length in dict.fromkeys(batch["attention_mask"].sum(1).tolist())
    ]


@contextmanager
def scaled(structure: Structure, factors: Factors) -> Iterator[None]:
    """Within the context, outputs of units are multiplied by numbers, `(units,)` or by row `(rows, units)`."""
    with ExitStack() as stack:
        for site in structure:
            if site.name in factors:
                by_feature = factors[site.name].double().repeat_interleave(site.unit_width, dim=-1)
                by_feature = by_feature[:, None] if by_feature.ndim == 2 else by_feature

                def multiply(_: object, args: tuple[Tensor, ...], by_feature: Tensor = by_feature) -> Tensor:
                    return args[0] * by_feature

                stack.callback(structure.consumer(site).register_forward_pre_hook(multiply).remove)
        yield


def ones(structure: Structure) -> Factors:
    return {site.name: torch.ones(site.units, dtype=torch.float64) for site in structure}


def flops(site: Site, width: int, length: float) -> float:
    """What one unit costs: a head `2·T̄·4·d·d_h + 4·T̄²·d_h`, a neuron `4·T̄·d`."""
    if site.kind == "head":
        return 2 * length * 4 * width * site.unit_width + 4 * length**2 * site.unit_width
    return 4 * length * width


def count(groups: list[Batch]) -> int:
    """Rows."""
    return sum(len(group["input_ids"]) for group in groups)


def mean_length(groups: list[Batch]) -> float:
    return sum(group["input_ids"].numel() for group in groups) / count(groups)


def distance(dense: Tensor, pruned: Tensor, gamma: float) -> Tensor:
    """K-prune's loss by row: KL at a temperature, times its square; of one number, the squared distance."""
    if dense.shape[-1] == 1:
        return (dense - pruned).square().sum(-1)
    return gamma**2 * F.kl_div((pruned / gamma).log_softmax(-1), (dense / gamma).softmax(-1), reduction="none").sum(-1)


def two_classes_root(logits: Tensor) -> Tensor:
    """A function of logits whose squared gradient is the Fisher information: exact for two classes or one number."""
    if logits.shape[-1] == 1:
        return logits.sum()
    spread = logits.detach().softmax(-1).prod(-1).sqrt()
    return (spread * (logits[..., 0] - logits[..., 1])).sum()


def tokens_at(structure: Structure, groups: list[Batch], site: Site) -> tuple[Tensor, Tensor, Tensor]:
    """Of all tokens of a BERT: the consumer's input `(tokens, features)`, its output, the residual stream after it."""
    seen: dict[str, list[Tensor]] = {"inputs": [], "outputs": [], "after": []}

    def consumed(_: object, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen["inputs"].append(args[0].detach().flatten(0, 1))
        seen["outputs"].append(output.detach().flatten(0, 1))

    consumer = structure.consumer(site)
    norm = structure.base.get_submodule(site.consumer.replace(".dense", ".LayerNorm"))

    def passed(_: object, args: tuple[Tensor, ...]) -> None:
        seen["after"].append(args[0].detach().flatten(0, 1))

    handles = [consumer.register_forward_hook(consumed), norm.register_forward_pre_hook(passed)]
    for group in groups:
        structure.model(**group)
    for handle in handles:
        handle.remove()
    inputs, outputs, after = (torch.cat(seen[name]) for name in ("inputs", "outputs", "after"))
    return inputs, outputs, after


def least_squares(inputs: Tensor, targets: Tensor, bias: Tensor, *, intercept: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias by `torch.linalg.lstsq` on all tokens."""
    if not intercept:
        return torch.linalg.lstsq(inputs, targets - bias).solution, bias
    design = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
    solution = torch.linalg.lstsq(design, targets).solution
    return solution[:-1], solution[-1]


def refit(
    dense: Structure, student: Structure, factors: Factors, groups: list[Batch], site: Site, *, intercept: bool
) -> None:
    """Solve the student's consumer for the dense model's residual stream, reading the units whose factor is 1."""
    kept = factors[site.name].bool().repeat_interleave(site.unit_width)
    _, _, wanted = tokens_at(dense, groups, site)
    with scaled(student, factors):
        inputs, outputs, after = tokens_at(student, groups, site)
    entering = after - outputs
    weight, bias = least_squares(inputs[:, kept], wanted - entering, student.consumer_bias(site), intercept=intercept)
    student.consumer_weight(site)[kept] = weight
    student.consumer(site).bias.copy_(bias)


def take_best(scores: Scores, costs: dict[str, float], limit: float) -> Masks:
    """Higher = keep: by falling score, whatever still fits."""
    units = [(float(score), name, unit) for name, values in scores.items() for unit, score in enumerate(values)]
    masks = {name: torch.zeros(len(values), dtype=torch.bool) for name, values in scores.items()}
    for _, name, unit in sorted(units, key=lambda each: -each[0]):
        if costs[name] <= limit * (1 + 1e-12):
            limit -= costs[name]
            masks[name][unit] = True
    return masks
