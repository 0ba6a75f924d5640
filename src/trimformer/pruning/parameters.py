"""Parameters of pruning that Python, the command line and compare files share.

Nothing heavy is imported: `trimformer --help` reads this.
"""

from __future__ import annotations

from typing import Any

from trimformer.errors import InvalidOption
from trimformer.model.parameters import Parameter

DEFAULT_METHOD = "surgeon"
DEFAULT_PRETRAINED_METHOD = "dual_cp"
"""Default method of P-pruning, where no label is looked at."""
AUTO = "auto"
"""Word for as many calibration tokens as pay."""
MOST_TOKENS = 100_000
"""Most calibration tokens that are drawn unasked: the papers' number."""
FIXED_TOKENS = 20_000
"""Calibration tokens where the rows drawn must not depend on the machine, as in compare files."""
DEFAULT_MINUTES = 10.0

METHOD = Parameter(name="method", text="Pruning method; see `trimformer list`.", default=DEFAULT_METHOD, needed=True)
CALIBRATION_TOKENS = Parameter(
    name="calibration_tokens",
    text="Draw calibration rows until they hold this many tokens; auto: as many as pay, up to 100,000.",
    kind=int,
    default=AUTO,
    low=1,
    words=(AUTO,),
)
MINUTES = Parameter(
    name="minutes",
    text="Bound the tokens that auto draws by the time that pruning is estimated to take.",
    kind=float,
    default=DEFAULT_MINUTES,
    low=0.01,
    needed=True,
)
SEQUENCE_LENGTH = Parameter(
    name="sequence_length",
    text="Count FLOPs and measure time at this many tokens; else at the calibration rows' mean.",
    kind=float,
    low=1,
)
BATCH_SIZE = Parameter(
    name="batch_size",
    text="Measure time on this many rows at once; else on 32, or fewer where rows are long.",
    kind=int,
    low=1,
)
ROUND_TO = Parameter(
    name="round_to",
    text="Keep neurons of each layer in multiples of this; else of 16 where it has 512 or more.",
    kind=int,
    low=1,
)
MAX_LENGTH = Parameter(
    name="max_length", text="Cut rows at this many tokens; else at the task's own length.", kind=int, low=1
)
EVALUATION_ROWS = Parameter(
    name="evaluation_rows",
    text="Judge by so many validation rows, the same ones each time; else by all.",
    kind=int,
    low=1,
)
SEED = Parameter(name="seed", text="Of all sampling.", kind=int, default=0, low=0, high=2**32 - 1, needed=True)

PARAMETERS = {
    parameter.name: parameter
    for parameter in (METHOD, CALIBRATION_TOKENS, MINUTES, SEQUENCE_LENGTH, BATCH_SIZE, ROUND_TO, MAX_LENGTH, SEED)
}


def check_parameters(**values: Any) -> None:
    """Check parameters by name.

    Raises:
        InvalidOption: as `Parameter.check`.
    """
    for name, value in values.items():
        PARAMETERS[name].check(value)


def share(value: Any) -> Any:
    """Read a share that may be written as text, in per cent too; what is no text stays as it is, to be checked.

    Raises:
        InvalidOption: it is neither.

    >>> share("0.4"), share("40%"), share(" 12.5 %"), share(0.4)
    (0.4, 0.4, 0.125, 0.4)
    """
    if not isinstance(value, str):
        return value
    number = value.strip()
    try:
        return float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError as error:
        raise InvalidOption(f"{value!r} is no share: give a number such as 0.4, or 40%") from error
