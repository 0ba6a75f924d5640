"""Gates: a model that decides for every row which units of a sublayer to use.

A copy of this file goes into every checkpoint, beside those of `modeling_trimformer` and `trimformer_modules`; it needs
torch only.

Source: Liu et al., EBERT (Findings of ACL 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pool = Literal["first", "mean"]
POOLS = ("first", "mean")
"""What a gate reads of a row: its first token, or the mean of its tokens."""
LEAST_NOISE = 1e-6


@dataclass(frozen=True)
class GateEntry:
    """A gate as `config.json` describes it; paths are relative to the base model.

    Raises:
        ValueError: an entry of another type, or a size that is not above 0.
    """

    reads: str
    """The module before which the gate decides: its first input is the sublayer's."""
    producers: dict[str, list[int]]
    """Projections that fill the units, each with the outputs of one unit in each of its parts."""
    consumer: str
    """The projection that reads the units."""
    units: int
    unit_width: int
    groups: int
    """Pieces of the consumer's input, in each of which all units have equal parts."""
    width: int
    """Numbers that the sublayer reads of a token."""
    hidden: int
    """Numbers between the gate's two projections."""
    pool: str
    sizes: dict[str, int]
    """Sizes that the attention module caches, by dotted path, each as that of one unit."""
    skips: bool
    """Whether a single row is computed with the units chosen alone."""

    def __post_init__(self) -> None:
        given: dict[str, Any] = vars(self)
        for name in ("producers", "sizes"):
            if not isinstance(given[name], dict) or not all(isinstance(path, str) for path in given[name]):
                raise ValueError(f"a gate of config.json has {name} of a wrong type")
        counts = [given[name] for name in ("units", "unit_width", "groups", "width", "hidden")]
        widths = given["producers"].values()
        counts += [*given["sizes"].values(), *(each for part in widths for each in (part if _some(part) else [None]))]
        for count in counts:
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"a gate of config.json has the size {count!r:.80}, which must be a number above 0")
        if not (given["producers"] and isinstance(given["reads"], str) and isinstance(given["consumer"], str)):
            raise ValueError("a gate of config.json does not name the modules that it is for")
        if given["pool"] not in POOLS or not isinstance(given["skips"], bool) or self.unit_width % self.groups:
            raise ValueError("a gate of config.json has an entry of a wrong type")

    @property
    def flops(self) -> int:
        """FLOPs of the gate itself, once a row."""
        return 2 * self.hidden * (self.width + self.units)


def is_gate(value: Any) -> bool:
    """Tell whether something read from JSON has the entries of a gate.

    Raises:
        ValueError: one of them is wrong, as `GateEntry` says.
    """
    named = isinstance(value, dict) and value.keys() == GateEntry.__dataclass_fields__.keys()
    return named and bool(GateEntry(**value))


def _some(widths: Any) -> bool:
    return isinstance(widths, list) and len(widths) > 0


def straight_through(logits: Tensor, noise: Tensor) -> Tensor:
    """Compute `1[σ(logits + noise) ≥ ½]`, exactly 0 or 1, with the gradient of `σ(logits + noise)`."""
    soft = torch.sigmoid(logits + noise)
    return (soft >= 0.5).to(soft) + (soft - soft.detach())


def logistic_noise(like: Tensor) -> Tensor:
    """Draw from the logistic distribution, a number for each."""
    uniform = torch.rand_like(like).clamp(LEAST_NOISE, 1 - LEAST_NOISE)
    return uniform.log() - (1 - uniform).log()


class Gate(nn.Module):
    """Predictor of the units that a row needs: projection, batch norm, ReLU, projection; a logit a unit, `z`.

    In training a unit stays where `σ(z + logistic noise) ≥ ½`, with a straight-through gradient; else where `z ≥ 0`.
    """

    def __init__(self, entry: GateEntry, device: Any, dtype: Any) -> None:
        super().__init__()
        self.entry = entry
        self.first = nn.Linear(entry.width, entry.hidden, device=device, dtype=dtype)
        self.norm = nn.BatchNorm1d(entry.hidden, device=device, dtype=dtype)
        self.last = nn.Linear(entry.hidden, entry.units, device=device, dtype=dtype)
        self.kept: Tensor | None = None
        """What the last pass kept, `(rows, units)`, 1 or 0; with its gradient in training."""

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Decide for some rows: `(rows, tokens, width)` and bool `(rows, tokens)` -> `(rows, units)`."""
        logits: Tensor = self.last(F.relu(self._normalised(self.first(self._pooled(hidden, real)))))
        if self.training:
            return straight_through(logits, logistic_noise(logits))
        return (logits >= 0).to(hidden)

    def _pooled(self, hidden: Tensor, real: Tensor) -> Tensor:
        if self.entry.pool == "mean":
            weights = real.to(hidden)
            return (hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), real.long().argmax(1)]

    def _normalised(self, values: Tensor) -> Tensor:
        """Normalise by these rows in training, or by the running mean where there is one row only."""
        norm, by_rows = self.norm, self.training and len(values) > 1
        if by_rows:
            normalised: Tensor = norm(values)
            return normalised
        return F.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class GatedLinear(nn.Linear):
    """A linear layer that can compute with some of its outputs, or of its inputs, or with inputs times a factor."""

    outputs: Tensor | None = None
    inputs: Tensor | None = None
    factor: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Turn `(…, inputs)` into `(…, outputs)`, of those that were chosen."""
        scaled = hidden if self.factor is None else hidden * self.factor.to(hidden.dtype)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if self.outputs is not None:
            weight = weight.index_select(0, self.outputs)
            bias = None if bias is None else bias.index_select(0, self.outputs)
        if self.inputs is not None:
            weight = weight.index_select(1, self.inputs)
        return F.linear(scaled, weight, bias)


class _Tokens:
    """Hook of a base model that remembers which tokens of the batch are real."""

    def __init__(self, base: nn.Module) -> None:
        self.names = list(signature(type(base).forward).parameters)[1:]
        self.mask: Tensor | None = None

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look for the token mask among the arguments."""
        self.mask = (dict(zip(self.names, args, strict=False)) | kwargs).get("attention_mask")

    def real(self, hidden: Tensor) -> Tensor:
        """Tell which tokens are real, all where nothing says otherwise: bool `(rows, tokens)`."""
        if isinstance(self.mask, Tensor) and self.mask.shape == hidden.shape[:2]:
            return self.mask.bool()
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)


class _Gating:
    """A sublayer at work: before it the gate decides, after its output projection all is as it was."""

    def __init__(self, base: nn.Module, gate: Gate, tokens: _Tokens) -> None:
        self.gate, self.tokens, entry = gate, tokens, gate.entry
        self.consumer: Any = base.get_submodule(entry.consumer)
        self.producers: list[tuple[Any, list[int]]] = [
            (base.get_submodule(path), widths) for path, widths in entry.producers.items()
        ]
        self.sizes: list[tuple[Any, str, int]] = []
        for path, each in entry.sizes.items():
            owner, _, name = path.rpartition(".")
            module: Any = base.get_submodule(owner.removesuffix(".config"))
            self.sizes.append((module.config if owner.endswith(".config") else module, name, each))

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Decide, and have the projections compute what was chosen, or zero the rest where there are several rows."""
        self.after()
        hidden = next(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor) and each.ndim == 3)
        kept = self.gate.kept = self.gate(hidden, self.tokens.real(hidden))
        if len(hidden) == 1 and self.gate.entry.skips and not self.gate.training and not _is_traced():
            self._choose(kept[0].nonzero()[:, 0])
        else:
            self.consumer.factor = self._by_feature(kept)[:, None]

    def _by_feature(self, kept: Tensor) -> Tensor:
        entry = self.gate.entry
        return kept.repeat_interleave(entry.unit_width // entry.groups, dim=1).repeat(1, entry.groups)

    def _choose(self, units: Tensor) -> None:
        entry = self.gate.entry
        if len(units) == 0:  # attention cannot run without any head: the first one runs, and counts for nothing
            units, self.consumer.factor = units.new_zeros(1), self.consumer.weight.new_zeros(1)
        for producer, widths in self.producers:
            starts = [entry.units * sum(widths[:part]) for part in range(len(widths))]
            parts = [_places(units, width) + start for width, start in zip(widths, starts, strict=True)]
            producer.outputs = torch.cat(parts)
        self.consumer.inputs = _places(units, entry.unit_width)
        for holder, name, each in self.sizes:
            setattr(holder, name, each * len(units))

    def after(self, *_: Any) -> None:
        """Undo what was chosen for a row."""
        self.consumer.factor = self.consumer.inputs = None
        for producer, _widths in self.producers:
            producer.outputs = None
        for holder, name, each in self.sizes:
            setattr(holder, name, each * self.gate.entry.units)


def _places(units: Tensor, width: int) -> Tensor:
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]  # it is public


def add_gates(base: Any, entries: dict[str, GateEntry], dtype: torch.dtype, device: torch.device) -> None:
    """Give sublayers of a base model their gates, by site; weights are new, to be loaded or trained.

    Raises:
        ValueError: a gate that does not fit the model; names it.
    """
    if not entries:
        return
    tokens = _Tokens(base)
    base.register_forward_pre_hook(tokens, with_kwargs=True)
    for site, entry in entries.items():
        _check(base, site, entry)
        gate = Gate(entry, device, dtype)
        base.get_submodule(site.rpartition(".")[0]).add_module(_name(site), gate)
        for path in (*entry.producers, entry.consumer):
            module = base.get_submodule(path)
            module.__class__ = GatedLinear
        gating = _Gating(base, gate, tokens)
        base.get_submodule(entry.reads).register_forward_pre_hook(gating.before, with_kwargs=True)
        base.get_submodule(entry.consumer).register_forward_hook(gating.after, always_call=True)


def gates_of(base: nn.Module, sites: list[str]) -> dict[str, Gate]:
    """Find the gates of a base model by site."""
    found: dict[str, Any] = {site: base.get_submodule(f"{site.rpartition('.')[0]}.{_name(site)}") for site in sites}
    return found


def _name(site: str) -> str:
    return f"{site.rpartition('.')[2]}_gate"


def _check(base: nn.Module, site: str, entry: GateEntry) -> None:
    """Refuse a gate whose sizes are not those of the modules that it is for."""
    try:
        modules = {path: base.get_submodule(path) for path in (entry.reads, *entry.producers, entry.consumer)}
        base.get_submodule(site.rpartition(".")[0])
        for path, each in entry.sizes.items():
            owner, _, name = path.rpartition(".")
            module: Any = base.get_submodule(owner.removesuffix(".config"))
            size = getattr(module.config if owner.endswith(".config") else module, name)
            if size != each * entry.units:
                raise ValueError(f"the gate of {site} is for {each * entry.units} {path}, the model has {size}")
    except AttributeError as error:
        raise ValueError(f"the gate of {site} names something that the model does not have: {error}") from error
    expected = {path: (1, entry.units * sum(widths)) for path, widths in entry.producers.items()}
    for path, (side, count) in {**expected, entry.consumer: (0, entry.units * entry.unit_width)}.items():
        projection: Any = modules[path]
        if type(projection) not in (nn.Linear, GatedLinear):
            raise ValueError(f"the gate of {site} expects a linear layer at {path}, not a {type(projection).__name__}")
        found = (projection.in_features, projection.out_features)[side]
        if found != count:
            raise ValueError(f"the gate of {site} is for {count} numbers of {path}, which has {found}")
