"""Memory that pruning will take: an estimate before the work starts, and the option that would fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from trimformer.data.batches import padded_tokens, real_tokens
from trimformer.data.rows import Batch
from trimformer.errors import InsufficientMemory, InvalidOption
from trimformer.model.offload import is_offloaded
from trimformer.model.slots import can_narrow
from trimformer.model.structure import Structure, parameter_count
from trimformer.observing.resources import available_bytes
from trimformer.pruning.contract import Backward, Method, NarrowsHeads, TrainsBlocks

BY_BLOCK = '`method="surgeon"`'
MILDER: dict[Backward, tuple[str, Backward]] = {
    "whole model": (f"{BY_BLOCK} (gradients block by block)", "by block"),
    "by block": ("`gradients=False`", "none"),
}
"""What needs less memory than a backward pass, and what is then left of it."""
UNTRAINED = {"trained": 0}
"""What changes where no block is trained."""
GIGABYTE = 1e9
FLOAT32, FLOAT64, HALF = 4, 8, 2
"""Bytes of a number."""
NUMBERS_AT_ONCE = 2**28
"""Numbers that a gradient pass may keep: what flows through the projections, and the logits. More in large models."""
PARAMETERS_AT_ONCE = 2
"""Numbers that it may keep for each parameter of the model, if that is more."""
LOGIT_COPIES = 6
"""Float32 tensors of the size of the logits while a loss and its gradient are computed."""
TRAINED_COPIES = 6
"""Float32 numbers for each parameter of a block that is trained: a copy, gradients, two moments, the best so far."""
SITE_COPIES = 6
"""Float64 matrices of the size of a site's sums while its curve is computed or its weights are solved."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Memory that pruning takes beside the dense model, in bytes, from the sizes that it depends on."""

    parameters: int
    """Numbers of the student that are in memory, all of them and those of heads that are turned; or, where the model is
    offloaded, those of one block of each."""
    bytes_per_number: int
    tokens: int
    """Number of all calibration tokens."""
    tokens_at_once: int
    """Tokens of the largest batch, padding included."""
    numbers_per_token: int
    """Numbers that all projections read and write for a token."""
    blocks: int
    width: int
    features: int
    """Features of the widest site."""
    logits: int
    """Logits of a language model for a token; 0 for other models."""
    backward: Backward
    trained: int = 0
    """Parameters of the largest block, if blocks are trained; else 0."""

    @property
    def student(self) -> float:
        """Bytes of the copy that is cut."""
        return self.parameters * self.bytes_per_number

    @property
    def hidden(self) -> float:
        """Bytes of both models' states and attention at a block with targets, or of one model's at all blocks.

        Training blocks takes fewer: both models' states for two texts, see `blocks.VERSIONS`.
        """
        refit = 4 * self.bytes_per_number + FLOAT32
        boundaries = (self.blocks + 2) * self.bytes_per_number if self.backward == "by block" else 0
        return self.tokens * self.width * max(refit, boundaries)

    @property
    def activations(self) -> float:
        """Bytes that a pass keeps for its gradients: of the whole model, or of one block."""
        numbers = self.numbers_per_token / (1 if self.backward == "whole model" else self.blocks)
        logits = self.logits * (FLOAT32 * LOGIT_COPIES if self.backward != "none" else self.bytes_per_number)
        return self.tokens_at_once * (numbers * self.bytes_per_number + logits)

    @property
    def statistics(self) -> float:
        """Bytes of sums and solutions of the widest site, and of the metrics of all sites."""
        site = SITE_COPIES * self.features * (self.features + self.width) * FLOAT64
        return site + (2 * self.blocks * self.width**2 * FLOAT64 if self.backward == "by block" else 0)

    @property
    def needed(self) -> float:
        """Bytes beside the dense model, as if all were there at the same time."""
        training = TRAINED_COPIES * self.trained * FLOAT32
        return self.student + self.hidden + self.activations + self.statistics + training

    def tokens_within(self, available: float) -> int:
        """Compute how many calibration tokens fit into so many bytes; below 0 where nothing does."""
        return math.floor((available - self.needed + self.hidden) / (self.hidden / self.tokens))


def footprint(dense: Structure, batches: list[Batch], method: Method) -> Footprint:
    """Collect the sizes that the memory of pruning a model by a method on these batches depends on."""
    model = dense.model
    blocks = [block for chain in range(len(dense.architecture.chains)) for block in dense.blocks(chain)]
    block = max(map(parameter_count, blocks))
    trains = isinstance(method, TrainsBlocks) and method.training_epochs > 0
    narrowed = [
        site for site in dense if isinstance(method, NarrowsHeads) and method.narrows and can_narrow(dense, site)
    ]
    turned = sum(site.unit_weights * site.units for site in narrowed)
    return Footprint(
        parameters=2 * block if is_offloaded(model) else parameter_count(model) + turned,
        bytes_per_number=model.dtype.itemsize,
        tokens=real_tokens(batches),
        tokens_at_once=max(map(padded_tokens, batches)),
        numbers_per_token=dense.numbers_per_token,
        blocks=len(blocks),
        width=dense.width,
        features=max(site.features for site in dense),
        logits=_logits(dense),
        backward=method.backward,
        trained=block if trains else 0,
    )


def pass_tokens(dense: Structure) -> int:
    """Limit the padded tokens of a batch, so that what a gradient pass keeps is in proportion to the model."""
    allowed = max(NUMBERS_AT_ONCE, PARAMETERS_AT_ONCE * parameter_count(dense.model))
    return max(1, allowed // max(1, dense.numbers_per_token + LOGIT_COPIES * _logits(dense)))


def _logits(dense: Structure) -> int:
    """Count a language model's logits for a token; 0 for other models."""
    return 0 if dense.model.get_output_embeddings() is None else int(dense.model.config.vocab_size)


def check_memory(dense: Structure, batches: list[Batch], method: Method) -> None:
    """Refuse work that does not fit into memory, before it starts.

    Raises:
        InvalidOption: gradients of a whole model that is not in memory.
        InsufficientMemory: names the estimate, what is available, and the option that would fit.
    """
    if method.backward == "whole model" and is_offloaded(dense.model):
        raise InvalidOption(
            "weights of this model are offloaded, and the method's gradients need all of them in memory at once: use "
            f"{BY_BLOCK}, which takes them block by block, or with `gradients=False` none"
        )
    asked, available = footprint(dense, batches, method), available_bytes(dense.device)
    if asked.needed > available:
        raise InsufficientMemory(
            f"pruning needs about {_gigabytes(asked.needed)} beside the model, {_gigabytes(available)} are available: "
            f"{remedy(asked, available, dense.device.type)}"
        )


def remedy(asked: Footprint, available: float, device: str = "cpu") -> str:
    """Say what to do about work that does not fit: the first option that would, or several together."""
    freed = asked.parameters * max(0, asked.bytes_per_number - HALF)
    milder: list[tuple[str, dict[str, Any], float]] = []
    if asked.trained:
        milder.append(("`epochs=0`", UNTRAINED, 0))
    if freed:
        milder.append(('`dtype="bfloat16"`', {"bytes_per_number": HALF}, freed))
    if asked.backward in MILDER:
        option, backward = MILDER[asked.backward]
        milder.append((option, {"backward": backward} | (UNTRAINED if backward == "none" else {}), 0))
    options: list[tuple[str, Footprint, float]] = [("", asked, 0)]
    for option, changed, more in milder:
        options += [
            (" with ".join(filter(None, (before, option))), replace(plan, **changed), free + more)
            for before, plan, free in options
        ]
    for option, plan, free in options[1:]:
        if plan.needed <= available + free:
            return f"{option} needs about {_gigabytes(plan.needed - free)}"
    option, plan, free = options[-1]
    tokens = plan.tokens_within(available + free)
    also = f" with {option}" if option else ""
    if tokens >= plan.features:
        return f"at most `calibration_tokens={tokens}` fit{also}"
    where = "a GPU and CPU memory" if device == "cuda" else "memory and disk"
    return (
        f'even{also} it needs {_gigabytes(plan.needed - free)}; spread the model over {where} with `device_map="auto"`'
    )


def _gigabytes(size: float) -> str:
    return f"{size / GIGABYTE:.1f} GB"
