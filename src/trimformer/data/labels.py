"""Labels, for the few who ask for them: from rows to tensors, and to a loss for every sequence.

Most methods prune without labels, and are never given any. Where they are asked for, a row has `labels` (a class, a
number, or one of either per token), or `start_positions` and `end_positions` (question answering).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from trimformer.data.columns import place_of, read_column, row_names
from trimformer.data.rows import LABELS, Batch, Features
from trimformer.errors import DataError, LabelError

IGNORED = -100
"""The label of a token that does not count, as everywhere in transformers."""


@contextmanager
def about_labels() -> Iterator[None]:
    """Within the context, every `DataError` becomes a `LabelError` with the same message."""
    try:
        yield
    except DataError as error:
        raise LabelError(str(error)) from error


def require_labels(rows: Sequence[Features]) -> None:
    """Refuse rows that are not all labelled.

    Raises:
        LabelError: names the first row whose labels are missing, null or -1.
    """
    for number, row in enumerate(rows, start=1):
        given = [row[name] for name in LABELS if name in row]
        if not given or any(value is None or (isinstance(value, int) and value == -1) for value in given):
            raise LabelError(f"row {number} is unlabelled: give every row {LABELS[0]}, or {' and '.join(LABELS[1:])}")


def pad_labels(rows: Sequence[Features], device: torch.device | str) -> Batch:
    """Make tensors of the labels of some rows, as `pad` orders them: `(batch,)`, or `(batch, length)` for tokens.

    Classes and positions are int64, numbers float32; padding is -100.
    """
    columns = {name: [torch.as_tensor(row[name]) for row in rows] for name in LABELS if name in rows[0]}
    padded = {
        name: pad_sequence(values, batch_first=True, padding_value=IGNORED) if values[0].ndim else torch.stack(values)
        for name, values in columns.items()
    }
    return {
        name: values.to(device, torch.float32 if values.is_floating_point() else torch.long)
        for name, values in padded.items()
    }


def class_order(classes: Sequence[str], id2label: Mapping[Any, str] | None) -> list[int]:
    """Find the number that a model gives each of a task's classes, by their names; as they come where it has others."""
    own = [name.lower() for name in class_names(id2label)]
    return [own.index(name) for name in classes] if set(own) == set(classes) else list(range(len(classes)))


def in_model_order(features: Sequence[Features], classes: Sequence[str], config: Any) -> list[Features]:
    """Number the class of every row as the model numbers its classes; without classes, rows stay as they are."""
    order = class_order(classes, config.id2label)
    return [
        {**row, "labels": order[row["labels"]]} if classes and isinstance(row["labels"], int) else row
        for row in features
    ]


MOST_LISTED = 12


def listed(names: Sequence[str]) -> str:
    """List some names, the first ones if they are many, with their number.

    >>> listed(["no", "yes"])
    'no, yes (2)'
    """
    return f"{', '.join(names[:MOST_LISTED])}{', …' if len(names) > MOST_LISTED else ''} ({len(names)})"


def class_names(id2label: Mapping[Any, str] | None) -> tuple[str, ...]:
    """Give the names of a model's classes in the order of their numbers."""
    return tuple(str(name) for _, name in sorted((id2label or {}).items(), key=lambda entry: int(entry[0])))


def class_finder(classes: Sequence[str], column: str) -> Callable[[Any, str, Any], int]:
    """Make a function of a label, the name of its row and the column's feature, that finds the label's class.

    A label is a class's name, in whatever case, or its number; where all classes have numbers as names, it is a name.
    A feature that names its classes, as those of datasets do, has numbers of its own.

    Raises:
        DataError: raised by the function where the model has no such class; names both.
    """
    names = {name.strip().lower(): number for number, name in enumerate(classes)}
    exact = dict(zip(classes, range(len(classes)), strict=True))
    by_number = {} if all(name.lstrip("-").isdigit() for name in classes) else {str(n): n for n in range(len(classes))}
    known = by_number | names

    def find(value: Any, where: str, feature: Any = None) -> int:
        if value is None or (isinstance(value, int) and value == -1 and "-1" not in known):
            raise DataError(f"{where}: {column!r} is {value!r}, the row is unlabelled; give labelled rows")
        named = _named(value, feature, names)
        found = exact.get(named, known.get(named.strip().lower()))
        if found is None:
            raise DataError(f"{where}: {column!r} is {reprlib.repr(value)}, {_none_of(named, classes)}")
        return found

    return find


def _named(value: Any, feature: Any, names: Mapping[str, int]) -> str:
    if isinstance(feature, ClassLabel) and isinstance(value, int) and {n.lower() for n in feature.names} <= set(names):
        return str(feature.names[value])
    if isinstance(value, bool) and str(value).lower() in names:
        return str(value)
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)


def _none_of(named: str, classes: Sequence[str]) -> str:
    nearest = get_close_matches(named, classes, n=1)
    hint = "mend the row, or check that the data fits the model; fine-tuning with `new_head` trains other ones"
    if nearest:
        hint = f"did you mean {nearest[0]!r}?"
    if _unnamed(classes):
        hint = "give the numbers of the classes, or name them as `id2label` in the model's config.json"
    if named.startswith("["):
        hint = 'set "problem_type": "multi_label_classification" in the model\'s config.json if it was trained so'
    return f"none of the model's classes, {listed(classes)}: {hint}"


def _unnamed(classes: Sequence[str]) -> bool:
    """Tell whether nobody named a model's classes: transformers writes LABEL_0 then."""
    return all(name.upper().startswith("LABEL_") for name in classes)


def class_numbers(rows: Dataset, column: str, classes: Sequence[str]) -> NDArray[Any]:
    """Find the number of every row's class in a model, `(rows,)`; see `class_finder`.

    Raises:
        DataError: an unlabelled row, or a label that the model does not have; says so where it has none of them.
    """
    find, feature = class_finder(classes, column), rows.features[column]
    labelled = list(zip(read_column(rows, column), row_names(rows), strict=True))
    try:
        return np.asarray([find(value, where, feature) for value, where in labelled], dtype=np.int64)
    except DataError:
        others = list(dict.fromkeys(value for value, _ in labelled if isinstance(value, str)))
        if len(others) > 1 and not _unnamed(classes) and not any(_is_found(find, value) for value in others):
            raise _no_class(place_of(rows), column, others, classes) from None
        raise


def _is_found(find: Callable[..., int], value: str) -> bool:
    try:
        find(value, "")
    except DataError:
        return False
    return True


def _no_class(where: str, column: str, others: Sequence[str], classes: Sequence[str]) -> DataError:
    """Make the error of rows whose labels are all none of the model's classes: they have names of their own."""
    named = listed([*map(reprlib.repr, others)])
    return DataError(
        f"{where}: {column!r} has {named}, of which none is one of the model's classes, "
        f"{listed(classes)}: write these in their place, or fine-tune with `new_head` to train a head for yours"
    )


def label_sets(rows: Dataset, column: str, classes: Sequence[str]) -> NDArray[Any]:
    """Read which classes every row has, 0 or 1 each: `(rows, classes)`.

    A row has a list of names or numbers, or 0 or 1 by class; either may be one text with `,`, `;` or `|` between them.

    Raises:
        DataError: an unlabelled row, or a label that the model does not have.
    """
    find, feature = class_finder(classes, column), getattr(rows.features[column], "feature", None)
    found = np.zeros((len(rows), len(classes)))
    for row, (where, given) in enumerate(zip(row_names(rows), read_column(rows, column), strict=True)):
        value = _split(given) if isinstance(given, str) else given
        if not isinstance(value, list):
            raise DataError(f"{where}: {column!r} is {reprlib.repr(given)}, not a list of classes")
        if len(value) == len(classes) and all(each in (0, 1, "0", "1") for each in value):
            found[row] = list(map(float, value))
        else:
            found[row, [find(each, where, feature) for each in value]] = 1
    return found


def _split(text: str) -> list[str]:
    mark = next((mark for mark in "|;," if mark in text), ",")
    return [part.strip() for part in text.split(mark) if part.strip()]


MOST_MISSING = 2
"""Multiple of the classes that occur up to which those between them count as classes too."""


def labels_of(rows: Dataset, column: str) -> tuple[Literal["classes", "label sets", "number"], tuple[str, ...]]:
    """Tell what some rows' labels are, and which classes there are; none for numbers.

    Raises:
        DataError: an unlabelled row, or all rows of one class.
    """
    values, feature = read_column(rows, column), rows.features[column]
    if any(value is None for value in values):
        where = row_names(rows)[values.index(None)]
        raise DataError(f"{where}: {column!r} is null, the row is unlabelled; give labelled rows")
    if isinstance(feature, ClassLabel):
        return "classes", tuple(feature.names)
    if any(isinstance(value, list) for value in values):
        return "label sets", tuple(sorted({str(each) for value in values for each in value}))
    whole = all(isinstance(value, int) for value in values)
    if not whole and all(isinstance(value, (int, float)) for value in values):
        return "number", ()
    if len(set(map(str, values))) == 1:
        told = f"all {len(values)} rows have {column!r} {reprlib.repr(values[0])}"
        raise DataError(f"{place_of(rows)}: {told}; give rows of two classes or more")
    return "classes", _numbered(set(values)) if whole else tuple(sorted(set(map(str, values))))


def _numbered(found: set[int]) -> tuple[str, ...]:
    """Name classes by their numbers: from 0 to the highest, or, where most of these do not occur, those that do.

    >>> _numbered({1, 3}), _numbered({10, 20, 1000000000000})
    (('0', '1', '2', '3'), ('10', '20', '1000000000000'))
    """
    numbers = range(max(found) + 1) if max(found) < MOST_MISSING * len(found) else sorted(found)
    return tuple(map(str, map(int, numbers)))


def tags_of(rows: Dataset, column: str) -> tuple[str, ...]:
    """List the tags that occur in some rows, a list or a text with blanks each; rows without any are passed over.

    Raises:
        DataError: a row has something else.
    """
    feature = getattr(rows.features[column], "feature", None)
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    found = set[str | int]()
    for where, given in zip(row_names(rows), read_column(rows, column), strict=True):
        tags = given.split() if isinstance(given, str) else given or []
        if not isinstance(tags, list) or not all(isinstance(tag, (str, int)) for tag in tags):
            raise DataError(f"{where}: {column!r} is {reprlib.repr(given)}, not a list of tags; mend the row")
        found.update(tags)
    numbers = [tag for tag in found if isinstance(tag, int)]
    if numbers and len(numbers) == len(found):
        return _numbered(set(numbers))
    return tuple(sorted(map(str, found)))
