"""A model and its architecture -> sites: where its sublayers, units and output projections are."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trimformer import plugins
from trimformer.data.batches import token_mask
from trimformer.data.rows import Batch
from trimformer.errors import UnsupportedModel
from trimformer.model.description import Architecture, Attention, Chain, Sublayer
from trimformer.model.modeling_trimformer import auto_class
from trimformer.model.offload import device_of, in_memory, stored_weight
from trimformer.model.query_heads import config_of_block
from trimformer.model.refusals import check_kind, check_use, not_described
from trimformer.model.sites import Masks, Producer, Site
from trimformer.model.trimformer_modules import BiasOnly, Projection, sizes_of_projection


@dataclass(frozen=True)
class Structure:
    """A model seen as sites, bottom-up: the sublayers of block 0, of block 1, …; chain by chain."""

    model: PreTrainedModel
    architecture: Architecture
    sites: tuple[Site, ...]

    @property
    def base(self) -> PreTrainedModel:
        """The model without its task head; the paths of sites are relative to it."""
        return self.model.base_model  # type: ignore[return-value]  # typed as any module

    def copied(self) -> Structure:
        """Copy the model, and read the copy by the same description."""
        return read_structure(copy.deepcopy(self.model), self.architecture)

    def blocks(self, chain: int = 0) -> nn.ModuleList:
        """Find the Transformer blocks of a chain.

        Raises:
            UnsupportedModel: they are not where the architecture puts them.
        """
        path = self.architecture.chains[chain].blocks
        blocks = self.module(path)
        if not isinstance(blocks, nn.ModuleList):
            raise UnsupportedModel(f"{path} is a {type(blocks).__name__}, not a list of blocks")
        return blocks

    def block(self, site: Site) -> nn.Module:
        """Find the block that a site is in."""
        return self.blocks(site.chain)[site.block]

    def config(self, chain: int = 0) -> Any:
        """Find the config that has the sizes of a chain: the model's, or a part of it."""
        part = self.architecture.chains[chain].config
        return getattr(self.base.config, part) if part else self.base.config

    def token_mask(self, batch: Batch, chain: int = 0) -> Tensor | None:
        """Tell which tokens of a batch are real to a chain: bool `(batch, length)`; None where it has no mask."""
        name = self.architecture.chains[chain].token_mask
        return None if name is None else token_mask(batch, name)

    def unpadded(self, values: Tensor, batch: Batch, chain: int = 0) -> Tensor:
        """Give what a chain computes for the real tokens of a batch: `(batch, length, width)` to `(tokens, width)`.

        Values of which batch and length are one dimension do as well.
        """
        mask = self.token_mask(batch, chain)
        rows = values.reshape(values.shape[:-1].numel(), values.shape[-1])
        return rows if mask is None or bool(mask.all()) else rows[mask.flatten()]

    @cached_property
    def device(self) -> torch.device:
        """Device that the model computes on; raises `UnsupportedModel` where it computes on several."""
        return device_of(self.model)

    @cached_property
    def numbers_per_token(self) -> int:
        """Numbers that all projections below the task head read and write for a token."""
        modules = self.base.modules()
        return sum(sum(module.weight.shape) for module in modules if isinstance(module, Projection))

    @cached_property
    def width(self) -> int:
        """Width of the widest residual stream."""
        return max(site.width for site in self.sites)

    def passes(self, chain: int = 0) -> int:
        """Give the number of times that a chain's blocks run on a batch, one after the other."""
        name = self.architecture.chains[chain].passes
        return int(getattr(self.config(chain), name)) if name else 1

    def pre_norm(self, chain: int = 0) -> bool:
        """Tell whether a chain's sublayers add to what those before them left, not to their own, normalised, input."""
        flag = self.architecture.chains[chain].pre_norm
        return bool(getattr(self.config(chain), flag)) if isinstance(flag, str) else flag

    @property
    def predicts_next_tokens(self) -> bool:
        """True for a causal language model: what it predicts at a token is the token after it."""
        return auto_class(type(self.model).__name__) == "AutoModelForCausalLM"

    @contextmanager
    def in_memory(self, site: Site) -> Iterator[None]:
        """Within the context, the weights of a site's block are in memory, to be read and changed."""
        with in_memory(self.model, self.block(site)):
            yield

    def module(self, path: str) -> nn.Module:
        """Find a module by its path below the base model.

        Raises:
            UnsupportedModel: there is none.
        """
        try:
            return self.base.get_submodule(path)
        except AttributeError as error:
            raise UnsupportedModel(f"{type(self.model).__name__} differs from its architecture: {error}") from error

    def projection(self, path: str) -> Projection:
        """Find a projection by its path below the base model.

        Raises:
            UnsupportedModel: nothing or something else is there.
        """
        module = self.module(path)
        if not isinstance(module, Projection):
            raise UnsupportedModel(f"{path} is a {type(module).__name__}, not a Linear: {_FOR_ANOTHER_LAYOUT}")
        return module

    def what_is_left(self, path: str) -> Projection | BiasOnly:
        """Find a projection, or what is left of it where its site has no units.

        Raises:
            UnsupportedModel: nothing or something else is there.
        """
        module = self.module(path)
        return module if isinstance(module, BiasOnly) else self.projection(path)

    def sublayer(self, site: Site) -> Sublayer:
        """Find the architecture's description that a site was read by."""
        return self.architecture.chains[site.chain].sublayers[site.order]

    def has_slots(self, site: Site) -> bool:
        """Tell whether a unit of a site is a query head of every key and value head."""
        sublayer = self.sublayer(site)
        return isinstance(sublayer, Attention) and sublayer.slots

    def consumer(self, site: Site) -> Projection | BiasOnly:
        """Find the module of a site's consumer, the output projection, or what is left of it."""
        return self.what_is_left(site.consumer)

    def entrance(self, site: Site) -> nn.Module:
        """Find the module of a sublayer that is the first to read its input alone; without units, its empty core."""
        for producer in site.producers:
            if producer.aligned:
                return self.module(producer.path)
        return self.module(site.core or site.consumer)

    def added(self, site: Site) -> nn.Module:
        """Find the module whose output, times the site's multiplier, is added to the residual stream."""
        return self.module(site.norm) if site.norm else self.consumer(site)

    def shared_outputs(self, site: Site) -> list[tuple[Tensor, Tensor | None]]:
        """Give weights, `(width, outputs)`, and biases of what all units of a site share, and no unit takes along."""
        ends = [(producer.path, producer.shared) for producer in site.producers if producer.shared]
        whole = [(path, features_first(self.projection(path)).shape[1]) for path in site.shared]
        found: list[tuple[Tensor, Tensor | None]] = []
        for path, count in (*ends, *whole):
            projection = self.projection(path)
            bias: Tensor | None = projection.bias
            found.append((features_first(projection)[:, -count:], None if bias is None else bias[-count:]))
        return found

    def consumer_weight(self, site: Site) -> Tensor:
        """Give the consumer's weight as a view `(features, width)`; of a block not in memory, a copy.

        What is written to the view is written to the model.
        """
        return self._weight(site.consumer)

    def readers(self, site: Site) -> list[Projection]:
        """Find the projections that read a sublayer's input and nothing else, those of its units and of all units."""
        paths = [producer.path for producer in site.producers if producer.aligned]
        return [self.projection(path) for path in (*paths, *site.shared)] if site.units else []

    def _weight(self, path: str) -> Tensor:
        module = self.what_is_left(path)
        if isinstance(module, BiasOnly):
            return torch.zeros(sizes_of_projection(module), dtype=self.model.dtype, device=self.device)
        return features_first(module)

    def consumer_bias(self, site: Site) -> Tensor | None:
        """Give the consumer's bias, `(width,)`; None if it has none."""
        bias: Tensor | None = self.consumer(site).bias
        return bias

    def unit_weights(self, site: Site) -> Tensor:
        """Give the consumer's weight by unit: `(units, unit_width, width)`."""
        by_unit = site.by_unit(self.consumer_weight(site), axis=0)
        return by_unit.reshape(site.units, site.unit_width, site.width)

    def of_block(self, chain: int, block: int) -> list[Site]:
        """List the sites of a block of a chain, in order."""
        return [site for site in self.sites if (site.chain, site.block) == (chain, block)]

    @property
    def occupied(self) -> list[Site]:
        """Sites that have at least one unit."""
        return [site for site in self.sites if site.units]

    def full_masks(self) -> Masks:
        """Make masks that keep every unit."""
        return {site.name: torch.ones(site.units, dtype=torch.bool) for site in self.sites}

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __getitem__(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)


def features_first(projection: Projection) -> Tensor:
    """Give a projection's weight as a view `(inputs, outputs)`, however it is stored; if not in memory, a copy."""
    weight = stored_weight(projection, "weight")
    return weight if isinstance(projection, Conv1D) else weight.T


_FOR_ANOTHER_LAYOUT = "describe this layout in a file of trimformer/architectures"


def read_structure(model: PreTrainedModel, architecture: Architecture | None = None) -> Structure:
    """Find the sites of a model, dense or already pruned.

    Args:
        model: any transformers model.
        architecture: its description; None takes that of its family.

    Raises:
        UnsupportedModel: no architecture is known for `config.model_type`, the model has cross-attention, or a
            module is not where its architecture puts it.
    """
    check_kind(model)
    config = model.config
    architecture = architecture or find_architecture(config)
    if architecture is None:
        raise UnsupportedModel(not_described(config, plugins.names("architectures")))
    check_use(model, architecture)
    structure = Structure(model, architecture, ())
    chains = range(len(architecture.chains))
    return Structure(model, architecture, tuple(site for chain in chains for site in _sites_of_chain(structure, chain)))


def find_architecture(config: Any) -> Architecture | None:
    """Find the description of a config's model family, for the sizes and switches that it has; None where none is.

    Raises:
        UnsupportedModel: the family is known, but not the variant that the config describes.
    """
    found: Any = plugins.provided("architectures").get(config.model_type)
    return found if found is None or isinstance(found, Architecture) else found(config)


def parameter_count(model: nn.Module) -> int:
    """Count the weights of the whole model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _sites_of_chain(structure: Structure, number: int) -> Iterator[Site]:
    chain = structure.architecture.chains[number]
    config = structure.config(number)
    for block in range(len(structure.blocks(number))):
        present = [order for order, each in enumerate(chain.sublayers) if each.is_in(config, block)]
        for order in present:
            yield _site(structure, chain, (number, block, order), last=order == present[-1])


def _site(structure: Structure, chain: Chain, position: tuple[int, int, int], *, last: bool) -> Site:
    """Read the site of a sublayer at a position: chain, block, and order in the block."""
    number, index, order = position
    sublayer, block, config = chain.sublayers[order], f"{chain.blocks}.{index}", structure.config(number)
    path, core = f"{block}.{sublayer.consumer}", f"{block}.{sublayer.core}" if sublayer.core else None
    consumer = structure.what_is_left(path)
    features, width = sizes_of_projection(consumer)
    module = structure.module(core) if core else None
    layout = sublayer.layout(config_of_block(sublayer, config, module, features))
    units, rest = divmod(features, layout.unit_width)
    if rest:
        raise UnsupportedModel(f"{path}: input is not a whole number of {layout.unit_width} ({sublayer.kind}s' width)")
    is_empty = core is not None and isinstance(consumer, BiasOnly)
    residual = sublayer.residual
    return Site(
        name=f"{block}.{sublayer.name}",
        kind=sublayer.kind,
        chain=number,
        block=index,
        order=order,
        last_in_block=last,
        units=units,
        unit_width=layout.unit_width,
        width=width,
        producers=() if is_empty else _producers(structure, block, sublayer.described(layout), units),
        consumer=path,
        consumer_bias=consumer.bias is not None,
        core=core,
        query_heads=layout.query_heads,
        head_width=layout.head_width,
        norm=f"{block}.{sublayer.norm}" if sublayer.norm else None,
        multiplier=float(getattr(config, sublayer.multiplier)) if sublayer.multiplier else 1.0,
        shared=() if is_empty else tuple(f"{block}.{path}" for path in sublayer.shared),
        residual=replace(residual, path=f"{block}.{residual.path}") if residual else None,
        window=sublayer.window(config, index),
        positions=layout.positions,
        passes=structure.passes(number),
        groups=layout.groups,
    )


def _producers(structure: Structure, block: str, described: Iterable[Producer], units: int) -> tuple[Producer, ...]:
    """Look described producers up in a block: their paths become those below the base model."""
    found = []
    for each in described:
        path = f"{block}.{each.path}"
        projection = structure.what_is_left(path)
        inputs, outputs = sizes_of_projection(projection)
        if outputs != units * each.width + each.shared:
            also = f" + {each.shared} of all units" if each.shared else ""
            raise UnsupportedModel(
                f"{path} has {outputs} outputs, not {units} x {' + '.join(map(str, each.widths))} (units, width of "
                f"each part){also}: {_FOR_ANOTHER_LAYOUT}"
            )
        found.append(replace(each, path=path, bias=projection.bias is not None, inputs=inputs))
    return tuple(found)
