"""Your own classifier: whatever its classes are, by their names or numbers, of one text or a pair."""

from __future__ import annotations

from trimformer.judging.classification import Classification

PROVIDES = {
    "classification": Classification(
        description="your own classifier: classes, label sets or numbers, of a text or a pair; accuracy and F1"
    )
}
