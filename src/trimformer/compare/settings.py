"""YAML files whose every mistake is told with its line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from trimformer.data.readers import utf8
from trimformer.errors import InvalidOption, TrimformerError, first_line, unknown_name

MOST_BYTES = 2**18
"""Bytes of a file: some thousand times those of a large comparison, and few enough to be parsed in seconds."""
MOST_ENTRIES = 10_000
"""Values of a file with its lists, keys and values, those behind an alias or a merge counted wherever they stand."""
MOST_NESTED = 32
"""Lists and mappings within each other."""


class Section(Mapping[str, Any]):
    """A mapping in a file, which knows the line of every key; mappings below it are sections as well."""

    def __init__(self, place: str, entries: Sequence[tuple[str, int, Any]]) -> None:
        self.place = place
        self._values = {key: value for key, _, value in entries}
        self._lines = {key: line for key, line, _ in entries}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def only(self, *known: str) -> Section:
        """Give the section itself, if it has no other keys than these.

        Raises:
            InvalidOption: it has one; names its line and the nearest right key.
        """
        for key in self:
            if key not in known:
                raise InvalidOption(f"{self.at(key)}: {unknown_name('key', key, known)}")
        return self

    def at(self, key: str) -> str:
        """Name the file and line of a key."""
        return f"{self.place}, line {self._lines[key]}"

    @contextmanager
    def about(self, key: str) -> Iterator[None]:
        """Within the context, every error of the package becomes an `InvalidOption` that begins with a line.

        It is the key's, where the error does not say one below it.
        """
        try:
            yield
        except TrimformerError as error:
            placed = str(error).startswith(f"{self.place}, line")
            raise InvalidOption(str(error) if placed else f"{self.at(key)}: {error}") from error

    def number(self, key: str, kind: type[int | float], default: Any = None) -> Any:
        """Read a number, or give the default where there is no such key.

        Raises:
            InvalidOption: something else is there.
        """
        value = self.get(key, default)
        if key in self and (isinstance(value, bool) or not isinstance(value, (int, kind))):
            raise InvalidOption(f"{self.at(key)}: {key}={value!r} must be a {'whole ' if kind is int else ''}number")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        """Read a text, or give the default where there is no such key.

        Raises:
            InvalidOption: something else is there.
        """
        if key not in self:
            return default
        value = self[key]
        if not isinstance(value, str):
            raise InvalidOption(f"{self.at(key)}: {key}={value!r} must be text")
        return value

    def section(self, key: str) -> Section:
        """Read the section below a key; an empty one where nothing is there.

        Raises:
            InvalidOption: something else is there.
        """
        value = self.get(key)
        if value is None:
            return Section(self.place, [])
        if not isinstance(value, Section):
            raise InvalidOption(f"{self.at(key)}: {key} must have keys and values below it, not {value!r}")
        return value

    def values_of(
        self, key: str, default: Sequence[Any] = (), *, read: Callable[[Any], Any] = lambda value: value
    ) -> list[Any]:
        """Read a list, or give the default where there is no such key; a single value is a list of one.

        `read` turns what is written into a value; two that are written differently may be the same.

        Raises:
            InvalidOption: the list is empty, a section, or has a value twice.
        """
        value = self.get(key, list(default))
        found = value if isinstance(value, list) else [value]
        if key in self and (not found or any(isinstance(entry, (Section, list)) for entry in found)):
            raise InvalidOption(f"{self.at(key)}: {key} must be a list such as [0.6, 0.4]")
        found = [read(each) for each in found]
        twice = [each for place, each in enumerate(found) if each in found[:place]]
        if twice:
            raise InvalidOption(f"{self.at(key)}: {twice[0]} is there twice in {key}: leave one out")
        return found

    def plain(self) -> dict[str, Any]:
        """Turn the section and those below it into plain dictionaries."""
        return {key: value.plain() if isinstance(value, Section) else value for key, value in self.items()}


def read_settings(file: Path) -> Section:
    """Read a YAML file as sections. Plain data only: tags that would make objects are refused.

    Raises:
        InvalidOption: no such file, no YAML, one that is larger than any comparison or whose aliases make it so, a key
            that is there twice, or no mapping at the top; with the line.
    """
    try:
        text = utf8(_content(file)).decode()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise InvalidOption(f"cannot read {file}: {error.strerror}; check the path") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidOption(f"{file}, line {line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidOption(f"{file} is no YAML: {first_line(error)}") from error
    if not isinstance(node, yaml.MappingNode):
        raise InvalidOption(f"{file} must have keys such as tasks: and methods: at its top")
    _check_extent(node, str(file))
    value: Section = _value(node, str(file), yaml.SafeLoader(""))
    return value


def _content(file: Path) -> bytes:
    with file.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InvalidOption(f"{file} has more than {MOST_BYTES:,} bytes, no comparison has: give a compare file")
    return content


def _check_extent(top: yaml.Node, place: str) -> None:
    """Refuse a file that is deep, or large once its aliases stand for what they name, before anything is made of it."""
    counted: dict[int, int] = {}

    def count(node: yaml.Node, depth: int) -> int:
        if id(node) in counted:
            return counted[id(node)]
        where = f"{place}, line {node.start_mark.line + 1}"
        if depth > MOST_NESTED:
            raise InvalidOption(f"{where}: more than {MOST_NESTED} lists and keys within each other; make it flat")
        entries = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [part for entry in entries for part in (entry if isinstance(entry, tuple) else (entry,))]
        total = 1
        for part in inner:
            total += count(part, depth + 1)
            if total > MOST_ENTRIES:
                raise InvalidOption(f"{where}: more than {MOST_ENTRIES:,} values, aliases counted; write fewer")
        counted[id(node)] = total
        return total

    count(top, 0)


def _value(node: yaml.Node, place: str, loader: yaml.SafeLoader) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(entry, place, loader) for entry in node.value]
    if not isinstance(node, yaml.MappingNode):
        return _plain(node, place, loader)
    with _at(node, place):
        loader.flatten_mapping(node)
    entries: dict[str, tuple[str, int, Any]] = {}
    for key_node, value_node in node.value:
        key, line = str(_plain(key_node, place, loader)), key_node.start_mark.line + 1
        if key in entries:
            raise InvalidOption(f"{place}, line {line}: {key!r} is there twice, first in line {entries[key][1]}")
        entries[key] = (key, line, _value(value_node, place, loader))
    return Section(place, list(entries.values()))


def _plain(node: yaml.Node, place: str, loader: yaml.SafeLoader) -> Any:
    with _at(node, place):
        if not isinstance(node, yaml.ScalarNode):
            raise InvalidOption("a key must be text")
        value = loader.construct_object(node)
        if isinstance(value, str):
            value.encode()  # half of a character, which `"\\ud800"` is, cannot be written anywhere
        return value


@contextmanager
def _at(node: yaml.Node, place: str) -> Iterator[None]:
    """Within the context, in which yaml makes a value, its errors become ours, with the line; they are of any class."""
    try:
        yield
    except Exception as error:
        told = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        if isinstance(node, yaml.ScalarNode) and not isinstance(error, yaml.MarkedYAMLError | InvalidOption):
            told = f"{node.value:.40} is no {node.tag.rpartition(':')[2]}"
        raise InvalidOption(f"{place}, line {node.start_mark.line + 1}: {told}") from error
