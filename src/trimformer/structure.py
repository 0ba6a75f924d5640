"""A model and its architecture -> sites: where its sublayers, units and output projections are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer import plugins
from trimformer.errors import NumericalError, UnsupportedModel
from trimformer.interfaces import Architecture, Masks, Site


@dataclass(frozen=True)
class Structure:
    """A model seen as a chain of sites, bottom-up: attention and FFN of block 0, of block 1, …"""

    model: PreTrainedModel
    architecture: Architecture
    sites: tuple[Site, ...]

    @property
    def base(self) -> PreTrainedModel:
        """The encoder without its task head; the paths of sites are relative to it."""
        return self.model.base_model  # type: ignore[return-value]  # typed as any module

    @property
    def blocks(self) -> nn.ModuleList:
        """The chain of Transformer blocks."""
        blocks = self.base.get_submodule(self.architecture.blocks)
        if not isinstance(blocks, nn.ModuleList):
            raise UnsupportedModel(f"{self.architecture.blocks} is a {type(blocks).__name__}, not a list of blocks")
        return blocks

    @cached_property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.hidden_size)

    def linear(self, path: str) -> nn.Linear:
        """A projection by its path."""
        module = self.base.get_submodule(path)
        if not isinstance(module, nn.Linear):
            raise UnsupportedModel(f"{path} is a {type(module).__name__}, not a Linear: {_FOR_ANOTHER_LAYOUT}")
        return module

    def consumer(self, site: Site) -> nn.Linear:
        """The output projection of a site; its weight is `(width, features)`."""
        return self.linear(site.consumer)

    def unit_weights(self, site: Site) -> Tensor:
        """The consumer's weight by unit: `(units, unit_width, width)`."""
        weight = self.consumer(site).weight.detach()
        return weight.T.reshape(site.units, site.unit_width, weight.shape[0])

    def full_masks(self) -> Masks:
        """Masks that keep every unit."""
        return {site.name: torch.ones(site.units, dtype=torch.bool) for site in self.sites}

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __getitem__(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)


_FOR_ANOTHER_LAYOUT = "describe this layout in a file of trimformer/architectures"


def read_structure(model: PreTrainedModel) -> Structure:
    """Find the sites of a model, dense or already pruned.

    Raises:
        UnsupportedModel: no architecture is known for `config.model_type`, the model has cross-attention, or a
            module is not where its architecture puts it.
    """
    config = model.config
    known = plugins.provided("architectures")
    if config.model_type not in known:
        raise UnsupportedModel(f"architecture {config.model_type!r} is not supported. Supported: {', '.join(known)}")
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedModel(
            f"{config.model_type} is used as a decoder (is_decoder=True): only encoders of it can be pruned"
        )
    if getattr(config, "chunk_size_feed_forward", 0):
        raise UnsupportedModel("chunk_size_feed_forward is set: load the model with chunk_size_feed_forward=0")
    quantization = getattr(config, "quantization_config", None)
    method = (
        quantization.get("quant_method")
        if isinstance(quantization, dict)
        else getattr(quantization, "quant_method", None)
    )
    if method not in (None, "trimformer"):
        raise UnsupportedModel(f"the model is quantized with {method}: prune it first, then quantize")
    structure = Structure(model, known[config.model_type], ())
    try:
        sites = tuple(site for index in range(len(structure.blocks)) for site in _sites_of_block(structure, index))
    except AttributeError as error:
        raise UnsupportedModel(f"{type(model).__name__} differs from its architecture: {error}") from error
    return Structure(model, structure.architecture, sites)


def check_weights(structure: Structure) -> None:
    """Refuse a model with NaN or infinite weights, or with nothing left to prune.

    Raises:
        NumericalError: names the site or the parameter.
        UnsupportedModel: every sublayer is empty.
    """
    if not any(site.units for site in structure):
        raise UnsupportedModel("nothing is left to prune: no sublayer of this model has a head or neuron")
    for name, parameter in structure.model.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            paths = {path: site.name for site in structure for path in (*site.producers, site.consumer)}
            sites = [site for path, site in paths.items() if f"{path}." in name]
            where = f"site {sites[0]} ({name})" if sites else name
            raise NumericalError(f"NaN or infinite weights at {where}: repair or re-download the checkpoint")


def parameter_count(model: nn.Module) -> int:
    """Number of weights of the whole model, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _sites_of_block(structure: Structure, index: int) -> tuple[Site, Site]:
    architecture, config = structure.architecture, structure.model.config
    block = f"{architecture.blocks}.{index}"
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention_output = f"{block}.{architecture.attention_output}"
    feed_forward_output = f"{block}.{architecture.feed_forward_output}"
    heads, rest = divmod(structure.linear(attention_output).in_features, head_width)
    if rest:
        raise UnsupportedModel(f"{attention_output}: input is not a whole number of heads of {head_width}")
    return (
        Site(
            name=f"{block}.attention", kind="head", block=index, units=heads, unit_width=head_width,
            producers=tuple(f"{block}.{path}" for path in architecture.query_key_value),
            consumer=attention_output, core=f"{block}.{architecture.attention}",
        ),
        Site(
            name=f"{block}.ffn", kind="neuron", block=index,
            units=structure.linear(feed_forward_output).in_features, unit_width=1,
            producers=tuple(f"{block}.{path}" for path in architecture.feed_forward),
            consumer=feed_forward_output,
        ),
    )  # fmt: skip


def masks_summary(structure: Structure, masks: Masks) -> list[dict[str, int]]:
    """Kept heads and neurons by block, for tables: `{"block": 0, "head": 5, "head_of": 12, "neuron": …}`."""
    rows: list[dict[str, int]] = [{"block": index} for index in range(len(structure.blocks))]
    for site in structure:
        rows[site.block] |= {site.kind: int(masks[site.name].sum()), f"{site.kind}_of": site.units}
    return rows
