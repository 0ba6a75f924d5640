"""Cluster units of a site that say the same: activations -> similarity -> dendrogram -> order of removal.

Pure functions of tensors; memory `features²` for one site. A dendrogram is SciPy's linkage matrix, `(units − 1, 4)`:
one merge a row, from the nearest clusters to the farthest; two clusters, their distance, the units in both. Cluster
`units + i` is what merge `i` made. All thresholds are cuts of the same dendrogram.

Source: Wang et al. (LREC-COLING 2024), sections 3.3 and 3.4, equations 5 to 9.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from torch import Tensor
from torch.nn import functional as F


def similarity(inputs: Tensor, units: int) -> Tensor:
    """Measure how alike the outputs of units are: `(tokens, features)` -> `(units, units)`, from 0 to 1, diagonal 1.

    Units of one feature: `C_ij = |cos(h_i, h_j)|`. Units of several: the mean over pairs of their features, where the
    features of two units are paired best first. A feature that is zero at all tokens is like none.
    """
    directions = F.normalize(inputs.double(), dim=0)
    cosines = (directions.T @ directions).abs().clamp(max=1.0)
    if units < cosines.shape[0]:
        width = cosines.shape[0] // units
        first, second = torch.triu_indices(units, units, offset=1, device=cosines.device)
        blocks = cosines.reshape(units, width, units, width).transpose(1, 2)[first, second]
        cosines = cosines.new_zeros(units, units)
        cosines[first, second] = cosines[second, first] = paired_best_first(blocks).mean(1)
    return cosines.fill_diagonal_(1.0)


def paired_best_first(similarities: Tensor) -> Tensor:
    """Pair rows with columns, the highest value first: `(matrices, width, width)` -> values, `(matrices, width)`.

    Every row and every column is in one pair.
    """
    left = similarities.clone()
    matrices, width, _ = left.shape
    every = torch.arange(matrices, device=left.device)
    values = left.new_empty(matrices, width)
    for step in range(width):
        values[:, step], place = left.flatten(1).max(1)
        left[every, place // width] = -torch.inf
        left[every, :, place % width] = -torch.inf
    return values


def dendrogram(similarities: Tensor) -> Tensor:
    """Cluster units by average linkage on the distance `1 − C`: `(units, units)` -> dendrogram `(units − 1, 4)`."""
    units = len(similarities)
    if units < 2:
        return torch.zeros(0, 4, dtype=torch.float64)
    distances = 1 - similarities.double().cpu().numpy()
    return torch.from_numpy(linkage(distances[np.triu_indices(units, k=1)], method="average"))


def removal_order(merges: Tensor, priority: Tensor) -> Tensor:
    """Order units by their removal if every cluster keeps its unit of highest priority: indices, `(units,)`.

    At a merge, the lower of the two clusters' best units goes; the best unit of all stands last.

    Args:
        merges: a dendrogram.
        priority: `(units,)`, higher = keep.
    """
    rank = priority.tolist()
    best = list(range(len(rank)))
    order = []
    for first, second in merges[:, :2].long().tolist():
        kept, gone = sorted((best[first], best[second]), key=lambda unit: -rank[unit])
        best.append(kept)
        order.append(gone)
    return torch.tensor([*order, *best[-1:]], dtype=torch.long)


def redundant_units(merges: Tensor, priority: Tensor, count: int) -> Tensor:
    """Keep the worst choice of `count` units, the most alike: of as many clusters the largest, whole. True = keep.

    Args:
        merges: a dendrogram.
        priority: `(units,)`, orders the units of the last cluster, which may not fit as a whole.
        count: units to keep.
    """
    mask = torch.zeros(priority.numel(), dtype=torch.bool)
    if 0 < count < mask.numel():
        labels = cut_tree(merges.numpy(), n_clusters=count)[:, 0]
        sizes = np.bincount(labels)[labels]
        mask[torch.from_numpy(np.lexsort((-priority.double().numpy(), labels, -sizes))[:count])] = True
        return mask
    return mask.fill_(count > 0)
