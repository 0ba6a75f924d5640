"""Similarity, pairing, clusters and the order of removal equal their definitions, written out as loops."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from trimformer.pruning.choose.clustering import (
    dendrogram,
    paired_best_first,
    redundant_units,
    removal_order,
    similarity,
)

SEEDS = pytest.mark.parametrize("seed", range(5))


def random_inputs(tokens: int, features: int, seed: int) -> Tensor:
    return torch.randn(tokens, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def paired_one_by_one(matrix: Tensor) -> list[float]:
    rows, columns, values = set(range(len(matrix))), set(range(len(matrix))), []
    while rows:
        value, row, column = max((float(matrix[i, j]), i, j) for i in rows for j in columns)
        rows.remove(row)
        columns.remove(column)
        values.append(value)
    return values


def average_linkage(distances: Tensor) -> list[tuple[float, frozenset[int]]]:
    """Distance and members of every merge, from the definition: the mean distance over pairs of members."""
    clusters = [frozenset([unit]) for unit in range(len(distances))]
    merges = []
    while len(clusters) > 1:
        distance, first, second = min(
            (
                (float(torch.stack([distances[i, j] for i in a for j in b]).mean()), a, b)
                for a, b in combinations(clusters, 2)
            ),
            key=lambda merge: merge[0],
        )
        clusters = [cluster for cluster in clusters if cluster not in (first, second)] + [first | second]
        merges.append((distance, first | second))
    return merges


def clusters_after(merges: list[tuple[float, frozenset[int]]], units: int, count: int) -> set[frozenset[int]]:
    clusters = {frozenset([unit]) for unit in range(units)}
    for _, merged in merges[:count]:
        clusters = {cluster for cluster in clusters if not cluster <= merged} | {merged}
    return clusters


@SEEDS
def test_similarity_of_neurons_is_the_absolute_cosine(seed: int) -> None:
    inputs = random_inputs(9, 6, seed)
    found = similarity(inputs.float(), 6)
    for i in range(6):
        for j in range(6):
            expected = abs(float(torch.cosine_similarity(inputs[:, i], inputs[:, j], dim=0)))
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-6)


@SEEDS
def test_similarity_of_heads_is_the_mean_over_greedy_pairs_of_dimensions(seed: int) -> None:
    inputs = random_inputs(9, 12, seed)
    cosines = similarity(inputs, 12)
    found = similarity(inputs, 3)
    assert torch.equal(found.diagonal(), torch.ones(3, dtype=torch.float64))
    for i, j in combinations(range(3), 2):
        values = paired_one_by_one(cosines[4 * i : 4 * i + 4, 4 * j : 4 * j + 4])
        assert float(found[i, j]) == float(found[j, i]) == pytest.approx(sum(values) / 4)


@SEEDS
def test_pairing_equals_the_plain_loop(seed: int) -> None:
    matrices = random_inputs(7 * 5, 5, seed).reshape(7, 5, 5).abs()
    kept = matrices.clone()
    for values, matrix in zip(paired_best_first(matrices), matrices, strict=True):
        assert values.tolist() == paired_one_by_one(matrix)
    assert torch.equal(matrices, kept)


def test_a_head_whose_dimensions_are_shuffled_scaled_and_negated_is_the_same_head() -> None:
    inputs = random_inputs(20, 8, 0)
    twin = -3 * inputs[:, [2, 0, 3, 1]]
    assert float(similarity(torch.cat([inputs, twin], 1), 3)[0, 2]) == pytest.approx(1.0)


def test_a_feature_that_is_always_zero_is_like_none() -> None:
    inputs = random_inputs(9, 3, 0)
    inputs[:, 1] = 0
    found = similarity(inputs, 3)
    assert found[1].tolist() == [0, 1, 0]


@SEEDS
def test_clusters_equal_average_linkage_by_definition(seed: int) -> None:
    units = 8
    similarities = similarity(random_inputs(5, units, seed), units)
    merges = dendrogram(similarities)
    expected = average_linkage(1 - similarities)
    assert merges[:, 2].tolist() == pytest.approx([distance for distance, _ in expected])
    priority = torch.rand(units, generator=torch.Generator().manual_seed(seed))
    order = removal_order(merges, priority).tolist()
    assert sorted(order) == list(range(units))
    for count in range(units):
        best = {max(cluster, key=lambda unit: priority[unit]) for cluster in clusters_after(expected, units, count)}
        assert set(order[count:]) == best


@SEEDS
def test_the_worst_choice_keeps_the_largest_clusters_whole(seed: int) -> None:
    units = 8
    similarities = similarity(random_inputs(5, units, seed), units)
    merges, expected = dendrogram(similarities), average_linkage(1 - similarities)
    for count in range(1, units + 1):
        kept = set(redundant_units(merges, torch.rand(units), count).nonzero()[:, 0].tolist())
        assert len(kept) == count
        clusters = clusters_after(expected, units, units - count)
        broken = [cluster for cluster in clusters if cluster & kept and not cluster <= kept]
        whole = [len(cluster) for cluster in clusters if cluster <= kept]
        gone = [len(cluster) for cluster in clusters if not cluster & kept]
        assert len(broken) <= 1
        assert min(whole, default=units) >= max([*gone, *map(len, broken)], default=0)


@pytest.mark.parametrize("units", [0, 1, 2])
def test_few_units(units: int) -> None:
    merges = dendrogram(similarity(random_inputs(5, 2 * units, 0), units)) if units else dendrogram(torch.zeros(0, 0))
    assert merges.shape == (max(0, units - 1), 4)
    assert removal_order(merges, torch.arange(units).double()).tolist() == list(range(units))
    for count in range(units + 1):
        assert int(redundant_units(merges, torch.arange(units).double(), count).sum()) == count
