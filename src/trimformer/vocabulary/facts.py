"""The facts of a trimmed vocabulary, as the manifest has them."""

from __future__ import annotations

from dataclasses import dataclass

from trimformer.model.parameters import Parameter

MINIMUM_COUNT = Parameter(
    name="minimum_count",
    text="Keep tokens that the texts have at least this often.",
    kind=int,
    default=1,
    low=1,
    needed=True,
)
CHARACTERS = Parameter(
    name="characters",
    text="Single-character tokens to keep: all, or only those seen in the texts; bytes always stay.",
    default="all",
    choices=("all", "seen"),
)
CALIBRATION = "calibration"
"""Word for the calibration rows in place of a file of texts."""


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """A count of the model as given, and of the trimmed one."""

    before: int
    after: int

    @property
    def share(self) -> float:
        """The part that is left, as a share of what was there; 1 of nothing."""
        return self.after / self.before if self.before else 1.0


@dataclass(frozen=True, kw_only=True)
class HeldOutFacts:
    """Counts of what the trimmed tokenizer makes of texts that it was not trimmed for."""

    texts: int
    otherwise: int
    """Texts that are split into other tokens than before."""
    tokens: BeforeAfter
    unknown: BeforeAfter
    """Unknown tokens in these texts."""


@dataclass(frozen=True, kw_only=True)
class VocabularyFacts:
    """Everything known of a trimmed vocabulary. Field names are the manifest's keys."""

    texts: str
    """File of the texts that were kept, or `calibration`."""
    minimum_count: int
    characters: str
    tokens: BeforeAfter
    rows: BeforeAfter
    """Rows of the word embeddings, which may be more than there are tokens."""
    parameters: BeforeAfter
    bytes: BeforeAfter
    """Size of the weights as they are stored."""
    proved_texts: int
    """Texts that were shown to split into the same tokens as before."""
    other_texts: int
    """Texts with a token rarer than `minimum_count`: they split otherwise now."""
    added_for_texts: int = 0
    """Tokens that no text has, kept all the same because a text would split otherwise without them."""
    answered_texts: int
    """Texts on which both models were run; a sample."""
    largest_difference: float
    """Largest difference of any number that the two models answered there."""
    held_out: HeldOutFacts | None = None
