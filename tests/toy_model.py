"""A model like none in transformers, for what an architecture may describe: two towers, three sublayers a block.

The text tower is pre-norm: grouped attention with queries, keys and values in one projection; beside it, on the same
input, a layer of one hidden unit of two numbers each ("pair"); then a gated feed-forward layer with gate and up in one
projection, its output normalised. All that attention adds is multiplied by a number of the config. The picture tower is
post-norm, has another width, and no token mask. Every size is read off the weights, so that the model runs when cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from trimformer import plugins
from trimformer.data.rows import Batch
from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused, Layout, Sublayer

WORDS, CHANNELS, CLASSES = 60, 5, 3


class TowerConfig(PreTrainedConfig):
    """Sizes of one tower."""

    model_type = "toy_tower"
    hidden_size: int = 24
    num_attention_heads: int = 6
    num_key_value_heads: int = 3
    neurons: int = 20
    scale: float = 0.7


class ToyConfig(PreTrainedConfig):
    """Two towers."""

    model_type = "toy"
    sub_configs = {"text": TowerConfig, "picture": TowerConfig}  # noqa: RUF012  # as transformers has it
    text: Any = None
    picture: Any = None

    def __init__(self, text: Any = None, picture: Any = None, **options: Any) -> None:
        self.text = TowerConfig(**text) if isinstance(text, dict) else text or TowerConfig()
        small = TowerConfig(hidden_size=16, num_attention_heads=4, num_key_value_heads=4, neurons=12)
        self.picture = TowerConfig(**picture) if isinstance(picture, dict) else picture or small
        super().__init__(**{"num_labels": CLASSES, **options})


class _Core(nn.Module):
    """Attention without its output projection; `width` is that of a head, `shared` the query heads of a group."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.width = config.hidden_size // config.num_attention_heads
        self.groups, self.shared = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
        self.qkv = nn.Linear(config.hidden_size, self.width * self.groups * (self.shared + 2))

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> tuple[Tensor, None]:
        rows, length, _ = hidden_states.shape
        sizes = [self.shared * self.groups * self.width, self.groups * self.width, self.groups * self.width]
        query, key, value = self.qkv(hidden_states).split(sizes, dim=-1)
        query = query.reshape(rows, length, self.groups, self.shared, self.width).permute(0, 2, 3, 1, 4)
        key, value = (
            each.reshape(rows, length, self.groups, 1, self.width).permute(0, 2, 3, 1, 4) for each in (key, value)
        )
        scores = query @ key.transpose(-1, -2) / self.width**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask.bool()[:, None, None, None, :], -1e9)
        mixed = scores.softmax(-1) @ value
        return mixed.permute(0, 3, 1, 2, 4).reshape(rows, length, -1), None


class TextBlock(nn.Module):
    """Attention and pairs side by side, then a gated feed-forward layer behind a norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.scale = config.scale
        self.norm, self.norm2, self.behind = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.core, self.out = _Core(config), nn.Linear(width, width)
        self.pair_in, self.pair_out = nn.Linear(width, 2 * 7), nn.Linear(2 * 7, width)
        self.gate_up, self.down = nn.Linear(width, 2 * config.neurons), nn.Linear(config.neurons, width, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        read = self.norm(hidden_states)
        attended = self.out(self.core(read, mask)[0])
        paired = self.pair_out(torch.sin(self.pair_in(read)))
        stream = hidden_states + self.scale * attended
        stream = stream + paired
        gate, up = self.gate_up(self.norm2(stream)).chunk(2, dim=-1)
        return stream + self.behind(self.down(F.silu(gate) * up))


class PictureBlock(nn.Module):
    """Post-norm attention and feed-forward layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.core, self.out = _Core(config), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.neurons), nn.Linear(config.neurons, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        stream = self.norm(hidden_states + self.out(self.core(hidden_states, None)[0]))
        return self.norm2(stream + self.down(torch.tanh(self.up(stream))))


class ToyModel(PreTrainedModel):
    """A classifier of a text with a picture."""

    config_class = ToyConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        text, picture = config.text, config.picture
        self.words, self.patches = nn.Embedding(WORDS, text.hidden_size), nn.Linear(CHANNELS, picture.hidden_size)
        self.text_blocks = nn.ModuleList([TextBlock(text) for _ in range(2)])
        self.picture_blocks = nn.ModuleList([PictureBlock(picture) for _ in range(2)])
        self.head = nn.Linear(text.hidden_size + picture.hidden_size, CLASSES)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.4)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor, **_: Any) -> SequenceClassifierOutput:
        text, picture = self.words(input_ids), self.patches(pixels)
        for block in self.text_blocks:
            text = block(text, attention_mask)
        for block in self.picture_blocks:
            picture = block(picture)
        weights = attention_mask[..., None] / attention_mask.sum(1)[:, None, None]
        return SequenceClassifierOutput(logits=self.head(torch.cat([(text * weights).sum(1), picture.mean(1)], dim=-1)))


@dataclass(frozen=True, kw_only=True)
class Pairs(Sublayer):
    """Units of two numbers that are neither heads nor neurons."""

    name: str = "pairs"
    kind: str = "pair"

    def layout(self, config: Any) -> Layout:
        return Layout(2, (2,))


ATTENTION: dict[str, Any] = {
    "core": "core", "producers": (Fused("core.qkv", parts=3),), "consumer": "out", "sizes": {"groups": "heads"}
}  # fmt: skip
TOY = Architecture(
    description="two towers",
    chains=(
        Chain(
            blocks="text_blocks",
            config="text",
            pre_norm=True,
            sublayers=(
                Attention(**ATTENTION, multiplier="scale"),
                Pairs(producers=("pair_in",), consumer="pair_out"),
                FeedForward(producers=(Fused("gate_up", parts=2),), consumer="down", norm="behind"),
            ),
        ),
        Chain(
            blocks="picture_blocks",
            config="picture",
            token_mask=None,
            sublayers=(Attention(**ATTENTION), FeedForward(producers=("up",), consumer="down")),
        ),
    ),
)


@contextmanager
def known() -> Iterator[None]:
    """Within the context trimformer knows the architecture."""
    architectures = plugins.provided("architectures")
    architectures["toy"] = TOY
    try:
        yield
    finally:
        del architectures["toy"]


def toy_model(seed: int = 0) -> ToyModel:
    """The model, in evaluation mode."""
    torch.manual_seed(seed)
    return ToyModel(ToyConfig()).eval()


def toy_batch(rows: int = 4, seed: int = 0) -> Batch:
    """Texts of different lengths, right-padded, and pictures of six patches."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(9) < torch.randint(4, 10, (rows, 1), generator=generator)).long()
    mask[0] = 1
    ids = torch.randint(1, WORDS, (rows, 9), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "pixels": torch.randn(rows, 6, CHANNELS, generator=generator)}
