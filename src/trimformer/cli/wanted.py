"""What a model is to become, as it is typed: budgets, a largest loss, sizes by name, and which of them go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trimformer import plugins
from trimformer.errors import InvalidOption
from trimformer.model.structure import read_structure
from trimformer.pruning.budget import Budget, HasUnit
from trimformer.pruning.constraints import constrain, suited
from trimformer.pruning.contract import Method
from trimformer.pruning.parameters import share
from trimformer.pruning.query_heads import with_asked_units
from trimformer.pruning.sizes import Sizes, read_sizes
from trimformer.pruning.target import aimed

EXAMPLES = {"flops": 0.4, "params": 0.4, "latency": 0.5, "size": "45MB", "max_drop": 0.01}
"""Examples for messages of how small a model may be asked to be."""


def one_budget(shares: Mapping[str, Any], **options: Any) -> Budget:
    """Make the budget of the one share that is given; `options` are those of `Budget`.

    Raises:
        InvalidOption: none or several are given, or the share is outside (0, 1].
    """
    check_one_of(shares)
    return Budget(**shares, **options)


def share_or_amount(text: str | None) -> float | str | None:
    """Read a share, or leave an amount with its unit for its cost to read.

    >>> share_or_amount("0.5"), share_or_amount("50%"), share_or_amount("45MB")
    (0.5, 0.5, '45MB')
    """
    try:
        return share(text)  # type: ignore[no-any-return]
    except InvalidOption:
        return text


def check_one_of(sizes: Mapping[str, float | str | None], others: str = "") -> None:
    """Refuse several ways to say how small, or none; `others` says what would do in their place.

    Raises:
        InvalidOption: names them all.
    """
    if sum(size is not None for size in sizes.values()) != 1:
        examples = ", ".join(f"`{name}={EXAMPLES[name]}`" for name in sizes)
        raise InvalidOption(f"say how small: exactly one of {examples}{others}")


def target(
    shares: Mapping[str, float | str | None],
    max_drop: float | None,
    sizes: Sizes | None,
    *,
    round_to: int | None,
    uniform: bool,
) -> tuple[Budget | None, Sizes | None]:
    """Read how small a model is to be: a budget or a largest loss, sizes, or one of the first two with sizes.

    Returns:
        The budget, None where there is none, and the sizes.

    Raises:
        InvalidOption: nothing says how small, several budgets do, or an option goes not with the others.
    """
    has_budget = any(share is not None for share in shares.values())
    if has_budget or max_drop is not None or sizes is None:
        check_one_of({**shares, "max_drop": max_drop}, ", or sizes by name, such as `heads=8`" if not sizes else "")
    if has_budget:
        return one_budget(shares, round_to=round_to, uniform=uniform), sizes
    if uniform and max_drop is not None:
        raise InvalidOption(
            "`uniform` goes with `flops`, `params`, `latency`, `size` or sizes by name, not with `max_drop`"
        )
    if round_to is not None and max_drop is None:
        raise InvalidOption("`round_to` goes with a budget: sizes that are asked for are what they are")
    return None, replace(sizes, uniform=uniform) if sizes else None


def check_guarded(max_drop: float | None, metric: str | None, cost: str | None) -> None:
    """Refuse a metric or a cost without a largest loss, and a cost that there is not.

    Raises:
        InvalidOption: says what goes with what.
    """
    if max_drop is None and (metric or cost):
        name = "metric" if metric else "cost"
        raise InvalidOption(f"`{name}` goes with a largest loss, such as `max_drop={EXAMPLES['max_drop']}`")
    if cost is not None:
        plugins.load("costs", cost)


def asked_sizes(
    units: tuple[str | None, str | None, str | None],
    sites: Path | None,
    keep_layers: str | None,
    drop: tuple[str | None, str | None],
    only: str | None,
) -> Sizes | None:
    """Read the sizes that were asked for by name; None where there are none.

    Args:
        units: heads, query heads and neurons.
        sites: a file, see `read_sizes`.
        keep_layers: numbers of layers.
        drop: blocks and sublayers, how many or which.
        only: kind of the units that may go.

    Raises:
        InvalidOption: something that is no size, or a file that cannot be read.
    """
    (heads, query_heads, neurons), (blocks, sublayers) = units, drop
    texts = (heads, query_heads, neurons, sites, keep_layers, blocks, sublayers, only)
    if all(text is None for text in texts):
        return None
    return Sizes(
        heads=heads,
        query_heads=query_heads,
        neurons=neurons,
        sites={} if sites is None else read_sizes(sites),
        keep_layers=keep_layers,
        drop_blocks=blocks,
        drop_sublayers=sublayers,
        only=only,
    )


def check_sizes(sizes: Sizes | None, model: PreTrainedModel, name: str, method: Method, *, alone: bool = False) -> None:
    """Refuse sizes that do not fit a model or a method, or alone remove nothing, before anything is measured on it.

    Raises:
        InvalidOption: says what does not fit.
    """
    if sizes is not None:
        structure = with_asked_units(read_structure(model), sizes)
        if alone:
            aimed(None, sizes, structure, name, method)
        else:
            suited(constrain(sizes, structure), structure, name, method)


def budgets(texts: Mapping[str, str | None], round_to: int | None = None) -> list[Budget]:
    """Read budgets from shares or amounts with commas, by cost, largest first and each once.

    Raises:
        InvalidOption: a share is no number or outside (0, 1], or an amount has no unit.

    >>> [budget.asked for budget in budgets({"flops": "0.4,0.8", "params": None, "size": "900kB,45MB"})]
    ['0.8', '0.4', '45MB', '900kB']
    """
    return [
        Budget.of(cost, asked, round_to=round_to)
        for cost, text in texts.items()
        if text is not None
        for asked in _asked(cost, text)
    ]


def _asked(cost: str, text: str) -> list[float | str]:
    values = [share_or_amount(part.strip()) for part in text.split(",")]
    shares, amounts = ({each for each in values if isinstance(each, kind)} for kind in (float, str))
    found = plugins.provided("costs").get(cost)
    if amounts and not isinstance(found, HasUnit):
        raise InvalidOption(f"`{cost}={text}` must be shares with commas, such as 0.8,0.6,0.4")
    return [*sorted(shares, reverse=True), *sorted(amounts, key=getattr(found, "amount", None), reverse=True)]
