"""A model and its architecture -> sites: where its sublayers, units and output projections are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trimformer import plugins
from trimformer.errors import UnsupportedModel
from trimformer.model.modeling_trimformer import NoHeads, Projection, auto_class
from trimformer.model.offload import device_of, in_memory, stored_weight
from trimformer.model.sites import Architecture, Masks, Producer, Site


@dataclass(frozen=True)
class Structure:
    """A model seen as a chain of sites, bottom-up: attention and FFN of block 0, of block 1, …"""

    model: PreTrainedModel
    architecture: Architecture
    sites: tuple[Site, ...]

    @property
    def base(self) -> PreTrainedModel:
        """The model without its task head; the paths of sites are relative to it."""
        return self.model.base_model  # type: ignore[return-value]  # typed as any module

    @property
    def blocks(self) -> nn.ModuleList:
        """The chain of Transformer blocks."""
        blocks = self.base.get_submodule(self.architecture.blocks)
        if not isinstance(blocks, nn.ModuleList):
            raise UnsupportedModel(f"{self.architecture.blocks} is a {type(blocks).__name__}, not a list of blocks")
        return blocks

    @cached_property
    def device(self) -> torch.device:
        """Where the model computes."""
        return device_of(self.model)

    @cached_property
    def flow(self) -> int:
        """Numbers that all projections below the task head read and write for a token."""
        modules = self.base.modules()
        return sum(sum(module.weight.shape) for module in modules if isinstance(module, Projection))

    @cached_property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def pre_norm(self) -> bool:
        """Whether the FFN adds to what attention left, and not to its own, normalised, input."""
        flag = self.architecture.pre_norm
        return bool(getattr(self.model.config, flag)) if isinstance(flag, str) else flag

    @property
    def predicts_next_tokens(self) -> bool:
        """Whether it is a causal language model: what it predicts at a token is the token after it."""
        return auto_class(type(self.model).__name__) == "AutoModelForCausalLM"

    @contextmanager
    def in_memory(self, block: int) -> Iterator[None]:
        """Within the context, a block's weights are in memory, to be read and changed, wherever they are kept."""
        with in_memory(self.model, self.blocks[block]):
            yield

    def projection(self, path: str) -> Projection:
        """A projection by its path."""
        module = self.base.get_submodule(path)
        if not isinstance(module, Projection):
            raise UnsupportedModel(f"{path} is a {type(module).__name__}, not a Linear: {_FOR_ANOTHER_LAYOUT}")
        return module

    def consumer(self, site: Site) -> Projection:
        """The module of a site's output projection."""
        return self.projection(site.consumer)

    def consumer_weight(self, site: Site) -> Tensor:
        """The consumer's weight as a view `(features, width)`; of a block not in memory, a copy.

        What is written to the view is written to the model.
        """
        return _features_first(self.consumer(site))

    def producer_weights(self, site: Site) -> list[Tensor]:
        """The producers' weights as views `(width, outputs)`: what is written to them is written to the model."""
        return [_features_first(self.projection(producer.path)) for producer in site.producers]

    def producer_biases(self, site: Site) -> list[Tensor]:
        """The producers' biases, `(outputs,)` each; none for those that have none."""
        return [self.projection(producer.path).bias for producer in site.producers if producer.bias]

    def consumer_bias(self, site: Site) -> Tensor | None:
        """The consumer's bias `(width,)`, if it has one."""
        bias: Tensor | None = self.consumer(site).bias
        return bias

    def unit_weights(self, site: Site) -> Tensor:
        """The consumer's weight by unit: `(units, unit_width, width)`."""
        return self.consumer_weight(site).reshape(site.units, site.unit_width, self.width)

    def attention_of(self, block: int) -> Site:
        """The attention site of a block."""
        return next(site for site in self.sites if site.block == block and site.kind == "head")

    @property
    def occupied(self) -> list[Site]:
        """The sites that have any unit."""
        return [site for site in self.sites if site.units]

    def full_masks(self) -> Masks:
        """Masks that keep every unit."""
        return {site.name: torch.ones(site.units, dtype=torch.bool) for site in self.sites}

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __getitem__(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)


def _features_first(projection: Projection) -> Tensor:
    weight = stored_weight(projection, "weight")
    return weight if isinstance(projection, Conv1D) else weight.T


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
    architecture: Architecture = known[config.model_type]
    if getattr(config, "is_decoder", False) and not architecture.causal:
        raise UnsupportedModel(
            f"{config.model_type} is used as a decoder (is_decoder=True): only encoders of it can be pruned"
        )
    if getattr(config, "add_cross_attention", False):
        raise UnsupportedModel("the model has cross-attention: only encoders, and decoders without it, can be pruned")
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
    structure = Structure(model, architecture, ())
    try:
        sites = tuple(site for index in range(len(structure.blocks)) for site in _sites_of_block(structure, index))
    except AttributeError as error:
        raise UnsupportedModel(f"{type(model).__name__} differs from its architecture: {error}") from error
    return Structure(model, architecture, sites)


def parameter_count(model: nn.Module) -> int:
    """Number of weights of the whole model, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _sites_of_block(structure: Structure, index: int) -> tuple[Site, Site]:
    architecture = structure.architecture
    block = f"{architecture.blocks}.{index}"
    attention, feed_forward = _attention_site(structure, index, block), f"{block}.{architecture.feed_forward_output}"
    consumer = structure.projection(feed_forward)
    units = len(_features_first(consumer))
    paths = [f"{block}.{path}" for path in architecture.feed_forward]
    return attention, Site(
        name=f"{block}.ffn",
        kind="neuron",
        block=index,
        units=units,
        unit_width=1,
        producers=tuple(_producer(structure, path, units, 1) for path in paths),
        consumer=feed_forward,
        consumer_bias=consumer.bias is not None,
    )


def _attention_site(structure: Structure, index: int, block: str) -> Site:
    architecture, config = structure.architecture, structure.model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    group = config.num_attention_heads // (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    core, path = f"{block}.{architecture.attention}", f"{block}.{architecture.attention_output}"
    consumer = structure.projection(path)
    units, rest = divmod(len(_features_first(consumer)), group * head)
    if rest:
        raise UnsupportedModel(f"{path}: input is not a whole number of {group} x {head} (heads by their width)")
    paths = [f"{block}.{producer}" for producer in architecture.query_key_value]
    widths = {"thirds": [(head, 3)], "by head": [(3 * head, 1)]}.get(
        architecture.fused or "", [(group * head, 1), (head, 1), (head, 1)]
    )
    is_empty = isinstance(structure.base.get_submodule(core), NoHeads)
    return Site(
        name=f"{block}.attention",
        kind="head",
        block=index,
        units=units,
        unit_width=group * head,
        producers=()
        if is_empty
        else tuple(
            _producer(structure, path, units, width, parts) for path, (width, parts) in zip(paths, widths, strict=True)
        ),
        consumer=path,
        consumer_bias=consumer.bias is not None,
        core=core,
        query_heads=group,
    )


def _producer(structure: Structure, path: str, units: int, width: int, parts: int = 1) -> Producer:
    projection = structure.projection(path)
    outputs = _features_first(projection).shape[1]
    if outputs != parts * units * width:
        raise UnsupportedModel(
            f"{path} has {outputs} outputs, not {parts} x {units} x {width} (parts, units, width): "
            f"{_FOR_ANOTHER_LAYOUT}"
        )
    return Producer(path, width, parts, bias=projection.bias is not None)
