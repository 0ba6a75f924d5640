"""`magnitude`, `kcm`, `mask_tuning` and `dual_cp` on a model whose every number is known, with the arithmetic.

A head costs 136 and a neuron 32 (FLOPs at one token), so a block of four heads costs 544.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import reach
import torch
from hand_model import HEAD_FLOPS, NEURON_FLOPS, ROWS, hand_model, write
from transformers import PreTrainedModel

from trimformer import Budget, Pruner
from trimformer.pruning.result import PruningResult

ATTENTION, FFN = "encoder.layer.0.attention", "encoder.layer.0.ffn"


def pruner_of(model: PreTrainedModel, method: str, **options: Any) -> Pruner:
    return Pruner(model, ROWS, method=method, calibration_tokens=None, options=options)


def removed(result: PruningResult, site: str) -> list[int]:
    return (~result.masks[site]).nonzero()[:, 0].tolist()


def test_costs_are_those_of_the_arithmetic() -> None:
    assert (HEAD_FLOPS, NEURON_FLOPS) == (136, 32)
    tables = pruner_of(hand_model([[[1, 1, 1]] * 3]), "magnitude").prices("flops").tables
    assert (float(tables[ATTENTION][1]), float(tables[FFN][1])) == (136, 32)


# magnitude -----------------------------------------------------------------------------------------------------------

HEAD_NORMS = [[136, 136], [0, 136], [680, 0], [1000, 360]]
"""Squared norms of the two rows of each head: 272, 136, 680, 1360 together, so 2, 1, 5, 10 per FLOP."""
NEURON_NORMS = [96, 48, 159]
"""3, 1.5 and a little less than 5 per FLOP."""


@pytest.mark.parametrize(
    ("limit", "heads", "neurons"),
    [
        # all cost 4 · 136 + 3 · 32 = 640; falling: head 3 (10), head 2 (5), neuron 2 (4.97), neuron 0 (3), head 0 (2),
        # neuron 1 (1.5), head 1 (1)
        (136, [0, 1, 2], [0, 1, 2]),
        (272 + 32, [0, 1], [0, 1]),
        (272 + 64, [0, 1], [1]),
        # after these 336 head 0 no longer fits into 440, but neuron 1 does
        (440, [0, 1], []),
        (336 + 136, [1], [1]),
        (640 - 136, [1], []),
    ],
)
def test_magnitude_keeps_the_largest_squared_norms_per_operation(
    limit: float, heads: list[int], neurons: list[int]
) -> None:
    model = hand_model([[[1, 1, 1]] * 3])
    write(model.encoder.layer[0].attention.output.dense, [[math.sqrt(n)] for pair in HEAD_NORMS for n in pair])
    write(model.encoder.layer[0].output.dense, [[0, -math.sqrt(n)] for n in NEURON_NORMS])
    result = pruner_of(model, "magnitude").prune(Budget(flops=limit / 640))
    assert removed(result, ATTENTION) == heads
    assert removed(result, FFN) == neurons


# kcm -----------------------------------------------------------------------------------------------------------------


def represented(kernel: list[list[float]], tolerance: float) -> list[float]:
    """R2 in loops: `C_ij ← C_ij (K_ij / Σ_k K_ik C_kj)^½` from `1 / n` until it changes by less than the tolerance."""
    n = len(kernel)
    now = [[1 / n] * n for _ in range(n)]
    while True:
        new = [
            [now[i][j] * math.sqrt(kernel[i][j] / sum(kernel[i][k] * now[k][j] for k in range(n))) for j in range(n)]
            for i in range(n)
        ]
        change = math.sqrt(sum((new[i][j] - now[i][j]) ** 2 for i in range(n) for j in range(n)))
        length = math.sqrt(sum(value**2 for row in new for value in row))
        now = new
        if change < tolerance * length:
            return [now[i][i] for i in range(n)]


def twins() -> PreTrainedModel:
    """Neurons 0 and 1 write in one direction, 2 in another; their mean absolute values are 1.1, 1.2 and 1.0."""
    model = hand_model([[[3.3, 0, 0], [0, -1.8, 1.8], [-1, -1, -1]]])
    write(model.encoder.layer[0].output.dense, [[0.2, 0], [0.1, 0], [0, 0.3]])
    return model


@pytest.mark.parametrize("sigma", [1.0, 0.7])
@pytest.mark.parametrize("tolerance", [0.01, 0.001])
def test_kcm_scores_representation_times_activity(sigma: float, tolerance: float) -> None:
    """At length 1 twins are 0 apart and the third √2, so `K` has 1 for twins and `exp(−2 / σ²)` for the others."""
    far = math.exp(-2 / sigma**2)
    representation = represented([[1, 1, far], [1, 1, far], [far, far, 1]], tolerance)
    mean = (1.1 + 1.2 + 1.0) / 3
    found = reach.measured(pruner_of(twins(), "kcm", sigma=sigma, tolerance=tolerance), FFN, "score").tolist()
    expected = [r * activity / mean for r, activity in zip(representation, (1.1, 1.2, 1.0), strict=True)]
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(expected) == expected[0], "of the twins the less active, though it is more active than the third"


@pytest.mark.parametrize(("kept", "gone"), [(2, [0]), (1, [0, 1])])
def test_kcm_removes_the_lowest_scores_and_no_head(kept: int, gone: list[int]) -> None:
    result = pruner_of(twins(), "kcm", tune=False).prune(Budget(flops=(544 + 32 * kept) / 640))
    assert removed(result, FFN) == gone
    assert removed(result, ATTENTION) == []


# mask tuning ---------------------------------------------------------------------------------------------------------

GRADIENTS = {
    ATTENTION: torch.tensor([[3.0, 0.0, 0.5, -2.0], [-1.0, 0.0, 0.5, 0.0]], dtype=torch.float64),
    FFN: torch.tensor([[2.0, -1.9, 1.0, 0.1], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64),
}
"""Of two mini-batches. Squared and summed: heads 10, 0, 0.5, 4; neurons 4, 3.61, 1, 0.01."""


def given_gradients(**options: Any) -> Pruner:
    pruner = pruner_of(hand_model([[[1, 2, 0], [2, 1, 0], [0, 0, 1], [1, 1, 1]]]), "mask_tuning", **options)
    write(pruner.calibration.dense.model.encoder.layer[0].output.dense, [[0.01]] * 4)
    reach.give_measured(pruner, {site: {"gradients": values} for site, values in GRADIENTS.items()})
    return pruner


@pytest.mark.parametrize(
    ("limit", "heads", "neurons"),
    [
        # of 4 · 136 + 4 · 32 = 672. No head: 4 neurons, 8.62; one head fits into 136 too, 10 and nothing else: it wins
        (136, [1, 2, 3], [0, 1, 2, 3]),
        # no head: 8.62; one head and two neurons, 200: 17.61; a second head does not fit
        (200, [1, 2, 3], [2, 3]),
        # one head and 4 neurons, 264: 18.62; two heads, 272: 14 and nothing else
        (272, [1, 2, 3], []),
        # two heads and one neuron, 304: 18; one head and all neurons: 18.62 again
        (304, [1, 2, 3], []),
        # two heads and two neurons, 336: 21.61
        (336, [1, 2], [2, 3]),
    ],
)
def test_mask_tuning_tries_every_number_of_heads(limit: float, heads: list[int], neurons: list[int]) -> None:
    result = given_gradients(rearrange=False, tune=False).prune(Budget(flops=limit / 672))
    assert removed(result, ATTENTION) == heads
    assert removed(result, FFN) == neurons


def test_mask_tuning_exchanges_what_cancels_out() -> None:
    """All heads stay, and one neuron.

    The search keeps neuron 0; of what it removes the gradients sum up to −1.9 + 1 + 0.1 = −0.8. Neuron 0 joins them:
    1.2. Coming back, neuron 0 would leave (−0.8)² = 0.64, neuron 1 3.1² = 9.61, neuron 2 0.2² = 0.04, neuron 3
    1.1² = 1.21: neuron 2 it is.
    """
    pruner = given_gradients(tune=False)
    heads = torch.full((2, 4), 9.0, dtype=torch.float64)
    reach.give_measured(pruner, {ATTENTION: {"gradients": heads}, FFN: {"gradients": GRADIENTS[FFN]}})
    result = pruner.prune(Budget(flops=(544 + 32) / 672))
    assert removed(result, ATTENTION) == []
    assert removed(result, FFN) == [0, 1, 3]


@pytest.mark.parametrize("damping", [0.0, 0.001, 0.5])
def test_mask_tuning_scales_what_stays_towards_a_teacher_that_is_half_way(damping: float) -> None:
    """One neuron stays of four, at 576 of 672; the teacher may cost √(576 · 672) = 622: it has two, neurons 0 and 1.

    Both write 0.01 in one direction. At the words neuron 0 is 1, 2, 0 and neuron 1 is 2, 1, 0, so that over words
    `a = Σ h₀² = 5` and `b = Σ h₀ (h₀ + h₁) = 5 + 2 + 2 = 9`. With the pull to 1 of λ = damping · a,
    `(a + λ)(s − 1) = b − a`, so `s = 1 + 0.8 / (1 + damping)`. Were the teacher whole, b would be 9 + 3.
    """
    pruner = given_gradients(rearrange=False, damping=damping)
    heads = torch.full((2, 4), 9.0, dtype=torch.float64)
    reach.give_measured(pruner, {ATTENTION: {"gradients": heads}, FFN: {"gradients": GRADIENTS[FFN]}})
    result = pruner.prune(Budget(flops=(544 + 32) / 672))
    assert removed(result, FFN) == [1, 2, 3]
    scaled = result.model.encoder.layer[0].output.dense.weight[0, 0]
    assert float(scaled.detach()) == pytest.approx(0.01 * (1 + 0.8 / (1 + damping)), rel=1e-3)


# dual cp -------------------------------------------------------------------------------------------------------------

HALF = [2.5, 5 * math.sqrt(0.75), 0]
"""Of length 5, and cosine 0.5 with the first word's axis."""
FIFTH = [1, math.sqrt(24), 0]
"""Cosine 0.2 with it."""
NEURONS = [[5, 0, 0], [-4, -3, 0], [0, 5, 0]]
"""Absolute cosines: 0.8 between the first two, 0.6 between the last two, 0 between first and last.

So the first two merge at the distance 0.2, and with the third at the mean of 0.4 and 1, 0.7: the nearest pair would say
0.4, the farthest 1."""
HEADS = [
    [[1, 0, 0], [0, 1, 0], [0, -2, 0], [3, 0, 0], [0, 0, 1], [0, 0, 2], [1, 1, 0], [0, 1, 1]],
    [[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 1], [1, -1, 1], [1, 1, 0], [0, 2, 1]],
]
"""In block 0, head 1 has the features of head 0 in the other order, one doubled and negated, one tripled: distance 0.
Head 0 is active (1 + 1) / 6, head 1 (2 + 3) / 6, so of the two head 1 stays."""


@pytest.mark.parametrize(
    ("second", "gone"),
    [
        # block 1 merges at 0.5: by rising distance 0.2 (block 0), 0.5 (block 1), 0.7 (block 0)
        (HALF, ([0], [0])),
        # block 1 merges at 0.8: 0.2 and 0.7, both of block 0
        (FIFTH, ([0, 2], [])),
    ],
    ids=["before 0.7", "after 0.7"],
)
def test_dual_cp_merges_by_mean_distance_and_keeps_the_most_active(second: list[float], gone: Any) -> None:
    """Both blocks cost 2 · (544 + 96) = 1280, of which 200 go. With λ = 1 heads lose at least 100 of it: one head, 136.

    Then neurons lose 64, two of them. In block 0 neuron 1 is the most active, (4 + 3) / 3; in block 1 neuron 1 is too.
    """
    model = hand_model([NEURONS, [[5, 0, 0], second, [0, 0, 0]]], HEADS)
    result = pruner_of(model, "dual_cp", lambda_=1.0).prune(Budget(flops=1080 / 1280))
    assert removed(result, ATTENTION) == [0]
    assert removed(result, "encoder.layer.1.attention") == []
    assert (removed(result, FFN), removed(result, "encoder.layer.1.ffn")) == gone


def test_dual_cp_measures_cosines_pairs_and_activity() -> None:
    pruner = pruner_of(hand_model([NEURONS, [[5, 0, 0], HALF, [0, 0, 0]]], HEADS), "dual_cp")
    distances = {site: reach.measured(pruner, site, "merges")[:, 2].tolist() for site in (FFN, ATTENTION)}
    assert distances[FFN] == pytest.approx([0.2, 0.7], abs=1e-6)
    assert distances[ATTENTION][0] == pytest.approx(0.0, abs=1e-6)
    assert reach.measured(pruner, FFN, "activity").tolist() == pytest.approx([5 / 3, 7 / 3, 5 / 3], rel=1e-6)
    heads = reach.measured(pruner, ATTENTION, "activity").tolist()
    assert heads == pytest.approx([2 / 6, 5 / 6, 3 / 6, 4 / 6], rel=1e-6)


def test_dual_cp_divides_the_budget_as_lambda_says() -> None:
    """Of 1280, 384 go: with λ = 0.4, heads lose 384 / 1.4 = 274, which takes three (two are 272), and neurons none.

    With λ = 1 heads lose 192, which takes two, and neurons 384 − 272 = 112, which takes four (three are 96).
    """
    model = hand_model([NEURONS, [[5, 0, 0], HALF, [0, 0, 0]]], HEADS)
    for ratio, heads, neurons in ((0.4, 3, 0), (1.0, 2, 4)):
        masks = pruner_of(model, "dual_cp", lambda_=ratio).prune(Budget(flops=896 / 1280)).masks
        assert sum(int((~mask).sum()) for name, mask in masks.items() if name.endswith("attention")) == heads
        assert sum(int((~mask).sum()) for name, mask in masks.items() if name.endswith("ffn")) == neurons


@pytest.mark.parametrize(("centroid", "gone"), [("most_active", [0]), ("worst", [2])])
def test_dual_cp_keeps_of_a_cluster_what_was_asked_for(centroid: str, gone: list[int]) -> None:
    """One neuron of block 0 goes, merged at 0.2 (λ = 0.5: of 168, heads lose 112, one head, and neurons 32).

    Two clusters are left, {0, 1} and {2}: the worst choice keeps the larger one whole.
    """
    model = hand_model([NEURONS, [[5, 0, 0], FIFTH, [0, 0, 0]]], HEADS)
    result = pruner_of(model, "dual_cp", lambda_=0.5, centroid=centroid).prune(Budget(flops=(1280 - 168) / 1280))
    assert removed(result, FFN) == gone
