"""A BERT small enough to compute by hand: what every unit puts out at each of three words is a number from a table.

Word embeddings are three patterns of ±1, orthogonal and of mean 0, which layer norms leave as they are; attention sees
all words of a row alike; nothing is added to the residual stream unless a test says so. A row has one word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers
from torch import Tensor, nn

WIDTH, HEADS, HEAD_WIDTH, WORDS = 8, 4, 2, 3
ROWS = [{"input_ids": [word], "labels": 0} for word in (1, 2, 3)]
"""One row for every word: a sequence has one token."""
HEAD_FLOPS = 2 * 4 * WIDTH * HEAD_WIDTH + 4 * HEAD_WIDTH
"""`2·T̄·4·d·d_h + 4·T̄²·d_h` at one token: 136."""
NEURON_FLOPS = 4 * WIDTH
"""`4·T̄·d`: 32."""
PATTERNS = torch.tensor([[1, -1] * 4, [1, 1, -1, -1] * 2, [1, -1, -1, 1] * 2], dtype=torch.float32)

Table = Sequence[Sequence[float]]
"""By feature of a site, its value at each of the three words."""


@torch.no_grad()
def hand_model(neurons: Sequence[Table], heads: Sequence[Table] | None = None) -> transformers.BertModel:
    """Tables by block: of neurons, whose activation is the identity; and of the heads' features, two each."""
    config = transformers.BertConfig(
        vocab_size=WORDS + 1,
        hidden_size=WIDTH,
        num_hidden_layers=len(neurons),
        num_attention_heads=HEADS,
        intermediate_size=len(neurons[0]),
        max_position_embeddings=4,
        hidden_act="linear",
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    for name, parameter in model.named_parameters():
        if "LayerNorm.weight" not in name:
            parameter.zero_()
    model.embeddings.word_embeddings.weight[1:] = PATTERNS
    for number, layer in enumerate(model.encoder.layer):
        layer.intermediate.dense.weight.copy_(_reading(neurons[number]))
        if heads is not None:
            layer.attention.self.value.weight.copy_(_reading(heads[number]))
    return model


def _reading(table: Table) -> Tensor:
    """Weights that put out a table's numbers at the words: patterns are orthogonal, of squared length 8."""
    return torch.tensor(table, dtype=torch.float32) @ PATTERNS / WIDTH


@torch.no_grad()
def write(projection: nn.Module, rows: Sequence[Sequence[float]]) -> None:
    """What each feature adds to the residual stream: the output projection's rows, zeros behind them."""
    given = torch.tensor(rows, dtype=torch.float32)
    projection.weight.zero_()
    projection.weight.T[:, : given.shape[1]] = given
