"""Refit of sentence embeddings: one matrix after the pooling brings the student's embeddings nearer to the dense ones.

What is left to do after all blocks: errors of a text's tokens that have a direction in common do not go away in the
mean. The map is that of least squares with a pull towards the identity, on the calibration rows and, where they are
text, varied ones. It is a module `Dense` of sentence-transformers: where a checkpoint has no files of these, nobody
would apply it, and there is none. A tenth of the texts decides how strong the pull is, and whether there is a map.

Source: ours; the ridge towards the identity is that of `align`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from trimformer import processes
from trimformer.data.batches import token_mask
from trimformer.data.rows import Batch
from trimformer.data.varying import can_vary, varied
from trimformer.model.modeling_trimformer import auto_class
from trimformer.model.pooling import Pooling
from trimformer.model.sentence_files import pooling_of, set_pooling
from trimformer.observing.sums import RegressionSums
from trimformer.pruning.contract import Job
from trimformer.pruning.refit.least_squares import solve

HELD_OUT = 10
"""One text of so many is held out."""
RIDGES = (0.1, 0.3, 1.0, 3.0)
"""Pulls towards the identity that are tried, relative to the mean square of what is pooled; few texts need more."""


@torch.no_grad()
def map_embeddings(job: Job) -> None:
    """Map the student's pooled embeddings to the dense model's, where that brings those held out nearer.

    With fewer texts than make a tenth, there is nothing to decide by, and no map.

    Args:
        job: of a student that is cut and refitted; nothing happens with models that have a head, or no files of
            sentence-transformers.
    """
    if auto_class(type(job.dense.model).__name__) != "AutoModel":
        return
    pooling = pooling_of(job.dense.model)
    if pooling.said_by != "files":
        return
    texts = [*job.batches, *(varied(job.batches, job.seed + 1) if can_vary(job.batches) else [])]
    both = [
        [_pooled(each, pooling, batch) for each in (job.student.model, job.dense.model)]
        for batch in job.progress(texts, "mapping embeddings")
    ]
    student, dense = (torch.cat(side) for side in zip(*both, strict=True))
    apart = torch.arange(len(dense), device=dense.device) % HELD_OUT == HELD_OUT - 1
    if not apart.any():
        return
    sums = RegressionSums(dense.shape[1], dense.shape[1], dense.device)
    sums.add(student[~apart], dense[~apart])
    tried = [pooling, *(_mapped(pooling, sums, ridge) for ridge in RIDGES)]
    distances = [_distance(each, pooling, student[apart], dense[apart]) for each in tried]
    nearest = tried[int(processes.agreed(torch.tensor(distances)).argmin())]
    if nearest is not pooling:
        set_pooling(job.student.model, nearest)


def _mapped(pooling: Pooling, sums: RegressionSums, ridge: float) -> Pooling:
    identity = torch.eye(sums.features, dtype=torch.float64, device=sums.products.device)
    fit = solve(sums, identity, identity[0], ridge=ridge, intercept=True, site="the pooled embeddings")
    return pooling.mapped(processes.agreed(fit.weight.T.float()), processes.agreed(fit.bias.float()))


def _pooled(model: PreTrainedModel, pooling: Pooling, batch: Batch) -> Tensor:
    """Pool a batch without the layers that follow: `(batch, width)`."""
    return pooling.unlayered(model(**batch).last_hidden_state, token_mask(batch))


def _distance(mapped: Pooling, dense_pooling: Pooling, student: Tensor, dense: Tensor) -> float:
    """Compute the mean squared distance of embeddings of length one, from what is pooled of both models."""
    ours, theirs = F.normalize(mapped.layered(student), dim=-1), F.normalize(dense_pooling.layered(dense), dim=-1)
    return float((ours - theirs).square().sum(-1).mean())
