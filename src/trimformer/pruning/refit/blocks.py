"""Refit that is not linear: all weights of a student's block are trained to put out what the dense block does.

A sublayer's closed-form refit solves for one matrix and takes the activations as they are; here producers and
consumers move together. From the bottom up each block reads the student's own residual stream and is to put out the
dense model's. A tenth of the batches never train: by them the best epoch is chosen, the one before any training too.
Epochs alternate between the text and another, made of the same rows: what fits one too closely fits no other. Where the
models' predictions are as good as the same already, nothing is trained; where some blocks in a row gain nothing, as
with too few rows, no further ones are. Blocks run in mixed precision where that is faster.

Needs no labels, and no backward pass through more than a block. Memory: hidden states of both models, tokens × width
numbers for each text, and six times a block's weights in float32: copies, gradients, moments, the best so far.

Source: ours. Nearest relatives: block-wise reconstruction of quantised networks, BRECQ (arXiv 2102.05426), and windows
of layers after pruning (arXiv 2510.14444).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimformer import processes
from trimformer.data.batches import split_batches
from trimformer.data.rows import Batch
from trimformer.data.varying import can_vary, varied
from trimformer.observing.boundary import Boundary
from trimformer.observing.predictions import mean_divergence
from trimformer.observing.watching import frozen
from trimformer.pruning.contract import Job
from trimformer.pruning.journal import Stage

HELD_OUT = 10
"""One batch of so many is held out; with fewer than two nothing is trained."""
TOKENS_A_STEP = 1024
"""Most tokens, padding included, of a step: batches of long rows are divided, so that there are enough steps."""
VERSIONS = 2
"""Texts that epochs alternate between, all read by the dense model; two serve as well as three: docs/research.md."""
GAIN = "gain"
"""Name, beside a block's weights in the journal, of the share of its loss that is gone."""
BETAS, WARM_UP = (0.9, 0.95), 0.05
"""Of Adam, and of its rate, which then falls to zero along a cosine."""
TRIED = 3
"""A chain of blocks is given up where so many, one after the other, are no better for any epoch.

One that gains little is no reason: the first blocks gain least, and the last ones most of all: docs/research.md."""
PASSES_AN_EPOCH = 2.0
"""Forward passes of the dense model that an epoch takes about as long as, with what it reads, in float32; for plans."""


@dataclass(frozen=True)
class Training:
    """How the blocks are trained."""

    epochs: int
    rate: float
    """Largest step of Adam."""
    negligible: float = 0.0
    """Divergence of the student's predictions from the dense model's, on such text, that training needs not mend."""


def train_blocks(job: Job, training: Training) -> None:
    """Train the blocks of a student that is cut and refitted, from the bottom up, towards the dense model's.

    One step follows the other, so that several processes share nothing of it: all train on all batches, and go on with
    the first one's weights.

    Args:
        job: with a student as it is to be, of all sublayers.
        training: nothing happens with 0 epochs.
    """
    text = _text(split_batches(job.batches, TOKENS_A_STEP), training.epochs, job.seed)
    if text is None or text.divergence(job) <= training.negligible:
        return
    blocks = [(chain, block) for chain in range(len(job.dense.architecture.chains)) for block in _blocks(job, chain)]
    kept, gains = job.stage("refitting blocks"), list[float]()
    with frozen(job.dense.model), frozen(job.student.model):
        for chain, block in job.progress(blocks, "refitting blocks"):
            if block == 0:
                dense, student = (Boundary(each, text.batches, chain, mixed=True) for each in (job.dense, job.student))
                student.hidden, gains = list(dense.hidden), []
            if len(gains) >= TRIED and not any(gains[-TRIED:]):
                continue
            dense.advance()
            if student.sites:
                gain = _settle(job, student, dense.hidden, text, training.rate, kept)
                gains += [gain] * (not math.isnan(gain))
            student.advance()


@dataclass(frozen=True)
class _Text:
    """Lists the batches that blocks are trained on and judged by."""

    batches: list[Batch]
    held: list[int]
    """Numbers of the batches that are held out."""
    epochs: list[list[int]]
    """Numbers of those that train, by epoch."""

    def divergence(self, job: Job) -> float:
        """Compute the mean divergence of the models' predictions for what is held out, varied where that can be.

        The refit has seen the rows, and would be judged too well by them as they are.
        """
        held = [self.batches[index] for index in self.held]
        text = varied(held, job.seed) if can_vary(held) else held
        return processes.agreed_number(mean_divergence(job.dense.model, job.student.model, text))

    def times(self, passes: int) -> tuple[list[int], list[list[int]]]:
        """Give the same numbers where blocks run several times: a batch counts in every pass, and holds out in all."""
        count = len(self.batches)

        def each(numbers: list[int]) -> list[int]:
            return [index + number * count for number in range(passes) for index in numbers]

        return each(self.held), [each(epoch) for epoch in self.epochs]


def _text(batches: list[Batch], epochs: int, seed: int) -> _Text | None:
    """Hold out a tenth of the batches, of all lengths; an epoch has the others, not in the versions of the one before.

    Versions are the batch itself and, where it is text, a varied one; an epoch has half of each. None where there is
    nothing to do: no epoch, or too few batches for one to train on and one to hold out.
    """
    if epochs == 0 or len(batches) < 2:
        return None
    chosen = set(range(HELD_OUT // 2, len(batches), HELD_OUT)) or {len(batches) - 1}
    held = [batch for index, batch in enumerate(batches) if index in chosen]
    own = [batch for index, batch in enumerate(batches) if index not in chosen]
    count = min(epochs, VERSIONS) if can_vary(own) else 1
    versions = [own, *(varied(own, seed + number) for number in range(1, count))]
    order = [
        [len(held) + (place + epoch) % len(versions) * len(own) + place for place in range(len(own))]
        for epoch in range(epochs)
    ]
    return _Text([*held, *(batch for version in versions for batch in version)], list(range(len(held))), order)


def _blocks(job: Job, chain: int) -> range:
    return range(len(job.dense.blocks(chain)))


def _settle(job: Job, student: Boundary, targets: list[Tensor], text: _Text, rate: float, kept: Stage | None) -> float:
    """Train the block that the student stands at, or give it the weights that the job's journal has.

    Returns:
        The share of its loss that is gone; NaN where it had none.
    """
    name, site = f"block {student.chain}.{student.block}", student.sites[0]
    found = kept.read(name) if kept else None
    gain = float(found.pop(GAIN)) if found else _train(job, student, targets, text, rate)
    with job.student.in_memory(site), torch.no_grad():
        weights = dict(job.student.block(site).named_parameters())
        for each, values in (found or {}).items():
            weights[each].copy_(values)
        if kept and found is None:
            kept.write(name, weights | {GAIN: torch.tensor(gain, dtype=torch.float64)})
    return gain


def _train(job: Job, student: Boundary, targets: list[Tensor], text: _Text, rate: float) -> float:
    """Train the block that the student stands at; it keeps the weights that were best on the batches held out.

    Returns:
        The share of its loss on those that is gone; NaN where it had none.
    """
    structure, site = job.student, student.sites[0]
    size = _size(student, targets)
    with structure.in_memory(site):
        losses = _Losses(student, targets, size)
        held, epochs = text.times(structure.passes(student.chain))
        with _learning(structure.block(site)) as weights:
            first = best = losses.mean(held)
            kept = [weight.detach().clone() for weight in weights]
            for _ in _epochs(losses, weights, epochs, rate, job.seed):
                found = losses.mean(held)
                if found < best:
                    best, kept = found, [weight.detach().clone() for weight in weights]
            with torch.no_grad():
                for weight, values in zip(weights, kept, strict=True):
                    weight.copy_(processes.agreed(values))
    return processes.agreed_number(1 - best / first if first else math.nan)


def _size(student: Boundary, targets: Sequence[Tensor]) -> float:
    """Compute the mean square of the targets, over all real tokens, that losses are shares of."""
    sums = torch.zeros(2, dtype=torch.float64)
    for index, target in enumerate(targets):
        rows = student.unpadded(index, target).double()
        sums += torch.tensor([float(rows.square().sum()), len(rows)], dtype=torch.float64)
    return max(float(sums[0] / sums[1]), torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class _Losses:
    """Squared distance of the student's block from the targets, as a share of their own squares, by batch."""

    student: Boundary
    targets: Sequence[Tensor]
    size: float

    def __call__(self, index: int) -> Tensor:
        """Compute the loss of a batch: the mean over its real tokens."""
        off = self.student.block_output(index).float() - self.targets[index].float()
        return self.student.unpadded(index, off).square().sum(-1).mean() / self.size

    @torch.no_grad()
    def mean(self, indices: Sequence[int]) -> float:
        """Compute the mean loss of some batches."""
        return sum(float(self(index)) for index in indices) / len(indices)


@contextmanager
def _learning(block: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Within the context, the weights of a block need gradients."""
    weights = [weight for weight in block.parameters() if weight.is_floating_point()]
    try:
        for weight in weights:
            weight.requires_grad = True
        yield weights
    finally:
        for weight in weights:
            weight.requires_grad = False
            weight.grad = None


def _epochs(
    losses: _Losses, weights: list[nn.Parameter], epochs: list[list[int]], rate: float, seed: int
) -> Iterator[None]:
    """Train by Adam, one step a batch, in an order of its own in each epoch; yields after every epoch.

    Steps are taken on copies in float32, so that small ones are not lost where the model has fewer digits.
    """
    precise = [weight.detach().float().clone() for weight in weights]
    adam = torch.optim.Adam(precise, lr=rate, betas=BETAS, fused=True)
    total = sum(map(len, epochs))
    rates = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _share_of_rate(step, total))
    generator = torch.Generator().manual_seed(seed)
    for batches in epochs:
        for place in torch.randperm(len(batches), generator=generator).tolist():
            _step(losses(batches[place]), weights, precise, adam)
            rates.step()
        yield


def _step(loss: Tensor, weights: list[nn.Parameter], precise: list[Tensor], adam: torch.optim.Optimizer) -> None:
    """Take one step of Adam by the gradients of a loss."""
    for weight in weights:
        weight.grad = None
    loss.backward()
    for weight, copy in zip(weights, precise, strict=True):
        copy.grad = torch.zeros_like(copy) if weight.grad is None else weight.grad.float()
    adam.step()
    with torch.no_grad():
        for weight, copy in zip(weights, precise, strict=True):
            weight.copy_(copy)


def _share_of_rate(step: int, total: int) -> float:
    warm = max(1, round(WARM_UP * total))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
