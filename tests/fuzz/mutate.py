"""Seeded damage to the content of a file: to its bytes, to its lines, or to the JSON in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

JUNK: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 1.5, 2**31, -(2**31), 2**63, 10**400, 1e308, float("nan"), float("inf")),
    *("", "x", "8", "nan", "None", "__class__", "../../etc/passwd", "a" * 5000),
    *("\x00", "\x1b[31m", "\u202e", "\ud800", "é", "[red]", "{{7*7}}"),
    *([], [[]], {}, {"a": 1}, [1, "a", None]),
)
"""Values that stand where others are expected."""
LINES = ("", ",", "{", "}", "[]", "- a", "&a [*a, *a]", "a: b: c", "null", "\t", '"', "'", "<<: *a", "!!int x", "\x00")
"""Lines of text that are put between others."""
DEEP = 3000
Mutate = Callable[[bytes, Random], tuple[bytes, str]]


def flip(content: bytes, random: Random) -> tuple[bytes, str]:
    """Flip one to four bits."""
    changed, places = bytearray(content), [random.randrange(len(content)) for _ in range(random.choice((1, 1, 2, 4)))]
    for place in places:
        changed[place] ^= 1 << random.randrange(8)
    return bytes(changed), f"flip bits in bytes {places}"


def cut(content: bytes, random: Random) -> tuple[bytes, str]:
    """Leave the end, or a piece, out."""
    start = random.randrange(len(content))
    end = random.choice((len(content), min(len(content), start + random.randint(1, 64))))
    return content[:start] + content[end:], f"leave out bytes {start} to {end}"


def insert(content: bytes, random: Random) -> tuple[bytes, str]:
    """Put random bytes, or a piece of the file itself, in."""
    place, start = random.randrange(len(content) + 1), random.randrange(len(content))
    new = random.choice((random.randbytes(random.randint(1, 16)), content[start : start + 64]))
    return content[:place] + new + content[place:], f"insert {len(new)} bytes at {place}"


def overwrite(content: bytes, random: Random) -> tuple[bytes, str]:
    """Write random bytes over some, so that the length stays."""
    place, count = random.randrange(len(content)), random.randint(1, 16)
    new = content[:place] + random.randbytes(count) + content[place + count :]
    return new[: len(content)], f"overwrite {count} bytes at {place}"


def lines(content: bytes, random: Random) -> tuple[bytes, str]:
    """Put a strange line in, or repeat or swap lines."""
    parts = content.split(b"\n")
    place, other = random.randrange(len(parts)), random.randrange(len(parts))
    how = random.choice(("insert", "repeat", "swap", "indent"))
    if how == "insert":
        parts.insert(place, random.choice(LINES).encode())
    elif how == "repeat":
        parts.insert(place, parts[other])
    elif how == "indent":
        parts[place] = b"  " + parts[place]
    else:
        parts[place], parts[other] = parts[other], parts[place]
    return b"\n".join(parts), f"{how} line {place}"


def values(content: bytes, random: Random) -> tuple[bytes, str]:
    """Change a value in JSON, or in a line of it: junk, another name, left out, deeply nested, or one of its own."""
    rows = content.decode("utf-8", "replace").splitlines()
    try:
        row = (
            random.randrange(len(rows)) if len(rows) > 1 and rows[0].startswith("{") and rows[0].endswith("}") else None
        )
        parsed = json.loads(content if row is None else rows[row])
        told = _change(parsed, random)
    except (ValueError, IndexError, RecursionError):  # it is damaged already
        return overwrite(content, random)
    text = json.dumps(parsed)
    text = text.replace('"DEEP"', "[" * DEEP + "]" * DEEP)
    if row is not None:
        text = "\n".join([*rows[:row], text, *rows[row + 1 :], ""])
    return text.encode(), told


def _change(top: Any, random: Random) -> str:
    places = list(_places(top))
    holder, key, path = random.choice(places)
    how = random.choice(("junk", "junk", "junk", "remove", "rename", "deep", "move"))
    if how == "remove":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif how == "deep":
        holder[key] = "DEEP"
    elif how == "move":
        other, name, _ = random.choice(places)
        holder[key] = json.loads(json.dumps(other[name])) if name in other or isinstance(other, list) else None
    else:
        holder[key] = random.choice(JUNK)
    return f"{how} {path}"


def _places(value: Any, path: str = "", depth: int = 0) -> Any:
    """All entries of lists and objects; of long lists the first few."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield value, key, f"{path}.{key}"
        yield from _places(entry, f"{path}.{key}", depth + 1)


def header(content: bytes, random: Random) -> tuple[bytes, str]:
    """Change a value in the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    text, told = values(content[8 : 8 + length], random)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :], f"header: {told}"


def header_swap(content: bytes, random: Random) -> tuple[bytes, str]:
    """Let two tensors of a safetensors file change their places, if its header is still one."""
    length = int.from_bytes(content[:8], "little")
    try:
        entries = json.loads(content[8 : 8 + length])
        first, second = random.sample(sorted(set(entries) - {"__metadata__"}), 2)
    except (ValueError, TypeError, RecursionError):  # it is damaged already
        return flip(content, random)
    entries[first], entries[second] = entries[second], entries[first]
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :], f"header: swap {first} and {second}"


BYTES: Sequence[Mutate] = (flip, cut, insert, overwrite)
TEXT: Sequence[Mutate] = (*BYTES, lines)
JSON: Sequence[Mutate] = (flip, cut, insert, lines, values, values, values, values)
TENSORS: Sequence[Mutate] = (*BYTES, header, header, header_swap)
