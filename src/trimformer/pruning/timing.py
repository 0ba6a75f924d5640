"""How long pruning will take, and how many calibration tokens that leaves: said before the work starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from transformers import PreTrainedTokenizerBase

from trimformer import processes
from trimformer.data.batches import make_batches, padded_tokens, tokens_at_once
from trimformer.data.rows import Batch, Features, token_count
from trimformer.model.limits import check_inputs, own_inputs
from trimformer.model.structure import Structure
from trimformer.observing import latency
from trimformer.observing.resources import available_bytes
from trimformer.progress import MINUTE, duration
from trimformer.pruning.contract import Method
from trimformer.pruning.memory import footprint, pass_tokens
from trimformer.pruning.parameters import MOST_TOKENS
from trimformer.pruning.probe import FROM_MODELS

TIMED_TOKENS = 512
"""Tokens of the rows that a forward pass is timed on: enough to be like a batch, few enough not to be waited for."""


@dataclass(frozen=True)
class Timing:
    """Estimates how long a method will take on a model."""

    dense: Structure
    tokenizer: PreTrainedTokenizerBase | None
    method: Method
    minutes: float
    say: Callable[[str], None]

    def chosen(self, tokens: int | str | None, rows: Sequence[Features]) -> int | None:
        """Choose how many tokens of some encoded rows to calibrate on, and say it with the time that it will take.

        A number is obeyed; of it something is said only if it will take longer than `minutes`. Otherwise it is as many
        as pay, as are there, and as fit into the time and the memory. What the time bounds is rounded down to one
        digit, so that the same command mostly draws the same rows, and finds what it measured before.

        Args:
            tokens: a number, None for all rows, or `AUTO`.
            rows: all that can be drawn.
        """
        total = sum(map(token_count, rows))
        if not total:
            return None
        batches = own_inputs(make_batches(_spread(rows), self.tokenizer, self.dense.device), self.dense.model)
        check_inputs(batches, self.dense.model.config)
        each = self._seconds_per_token(batches)
        if not isinstance(tokens, str):
            count = total if tokens is None else tokens
            if each * count > MINUTE * self.minutes:
                self.say(f"calibrating on {count:,} tokens: {duration(each * count)}")
            return tokens
        return self._as_many_as_pay(total, each, batches)

    def _as_many_as_pay(self, total: int, each: float, batches: list[Batch]) -> int:
        """Choose within all bounds of that many tokens, of which each takes that many seconds; say it."""
        most = self.method.effort.most_tokens
        bounds = {
            "": total,
            "no more pay": most,
            f"`minutes={self.minutes:g}` allows no more": one_digit(MINUTE * self.minutes / each) if each else most,
            "no more fit into memory": self._fitting(batches) or most,
        }
        reason, chosen = min(bounds.items(), key=itemgetter(1))
        if each:
            of = f" of {'more than ' * (total >= MOST_TOKENS)}{min(total, MOST_TOKENS):,}" if reason else ""
            self.say(
                f"calibrating on {'' if reason else 'all '}{chosen:,}{of} tokens: {duration(each * chosen)}"
                + (f" ({reason})" if reason else "")
            )
        return chosen

    def _seconds_per_token(self, batches: Sequence[Batch]) -> float:
        """Estimate the seconds that each calibration token takes, by one timed pass; 0 where that is not known.

        A model that does not run is none of this stage's business: preflight says what is wrong with it.
        """
        passes = self.method.effort.passes(len(self.dense.sites))
        if not passes:
            return 0.0
        models = {"": self.dense.model}
        try:
            times = [latency.measure(models, batch, runs=1, warmup=1)[""].median_ms for batch in batches]
        except FROM_MODELS:
            return 0.0
        return passes * sum(times) / 1000 / sum(map(padded_tokens, batches)) / processes.count()

    def _fitting(self, batches: list[Batch]) -> int:
        """Compute how many tokens fit into memory; 0 where even few do not, which preflight will refuse."""
        most_at_once = min(tokens_at_once(self.dense.model), pass_tokens(self.dense))
        plan = replace(footprint(self.dense, batches, self.method), tokens_at_once=most_at_once)
        fitting = plan.tokens_within(processes.agreed_number(available_bytes(self.dense.device)))
        return one_digit(fitting) if fitting > plan.features else 0


def _spread(rows: Sequence[Features]) -> list[Features]:
    """Take rows of all lengths, evenly, of about `TIMED_TOKENS` tokens together."""
    ordered = sorted(rows, key=token_count)
    mean = sum(map(token_count, rows)) / max(1, len(rows))
    count = max(1, min(len(rows), round(TIMED_TOKENS / max(1.0, mean))))
    return [ordered[int((place + 0.5) * len(ordered) / count)] for place in range(count)] if ordered else []


def one_digit(number: float) -> int:
    """Round a number down to one digit and zeros, at least to 1.

    >>> one_digit(38_400), one_digit(7), one_digit(0.2)
    (30000, 7, 1)
    """
    whole = max(1, math.floor(number))
    unit: int = 10 ** (len(str(whole)) - 1)
    return whole // unit * unit
