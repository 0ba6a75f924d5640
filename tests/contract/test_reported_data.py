"""Files that ended in a traceback, a hang or another model: measurements, rows and compare files, damaged as reported.

The reported files themselves are tried where they are at hand, in `shared/cases/faults` beside the repository; the same
damage is made here, so that nothing depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trimformer import Budget, Pruner, PruningResult
from trimformer.pruning.cache import MeasuredCache

REPORTED = Path(__file__).parents[3] / "shared" / "cases" / "faults"
ROWS = [{"input_ids": [2, *range(5, 5 + n), 3], "attention_mask": [1] * (n + 2)} for n in range(3, 9)]


def reported(kind: str, *endings: str) -> list[Path]:
    """The reported files of a kind; none where they are not at hand."""
    found = sorted(REPORTED.glob(f"{kind}-*")) if REPORTED.is_dir() else []
    files = [file for place in found for file in ([place] if place.is_file() else place.iterdir())]
    return [file for file in files if file.suffix in endings]


def named(file: Path) -> str:
    return file.name if file.parent == REPORTED else file.parent.name


def header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and its data."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A safetensors file with a changed header."""
    entries, data = header(content)
    change(entries)
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


COST, METRIC, ORDER = (f"encoder.layer.1.ffn.{name}" for name in ("cost", "metric", "order"))


def other_type(entries: dict[str, Any]) -> None:
    floats = next(entry for name, entry in entries.items() if name != "__metadata__" and entry["dtype"] == "F64")
    floats["dtype"] = "I64"


def swapped(entries: dict[str, Any]) -> None:
    entries[METRIC], entries[COST] = entries[COST], entries[METRIC]


def swapped_alike(entries: dict[str, Any]) -> None:
    other = COST.replace("layer.1", "layer.0")
    entries[other], entries[COST] = entries[COST], entries[other]


def renamed(entries: dict[str, Any]) -> None:
    entries[f"{COST}s"] = entries.pop(COST)


def reshaped(entries: dict[str, Any]) -> None:
    entries[COST]["shape"].insert(0, 1)


class TestMeasurements:
    """A damaged measurement is measured anew, and said; it never enters a model, nor does it stop a run."""

    @pytest.fixture
    def said(self) -> list[str]:
        return []

    @pytest.fixture
    def again(self, tiny_bert, tmp_path: Path, said: list[str]) -> Callable[[Callable[[bytes], bytes]], None]:
        """Prunes, changes the measurement that was kept, prunes again and compares."""
        model, cache = tiny_bert(), MeasuredCache(tmp_path / "cache", say=said.append)

        def pruned() -> PruningResult:
            pruner = Pruner(model, ROWS, calibration_tokens=None, progress=False, cache=cache)
            return pruner.prune(Budget(flops=0.5))

        def again(change: Callable[[bytes], bytes]) -> None:
            first = pruned()
            (file,) = cache.folder.iterdir()
            whole = file.read_bytes()
            file.write_bytes(change(whole))
            said.clear()
            second = pruned()
            assert len(said) == 1, said
            assert "measuring again" in said[0]
            assert "\n" not in said[0]
            weights = second.model.state_dict()
            assert all(torch.equal(values, weights[name]) for name, values in first.model.state_dict().items())
            pruned()
            assert "reusing" in said[1], "the damaged file was not replaced"

        return again

    @pytest.mark.parametrize("damage", [other_type, swapped, swapped_alike, renamed, reshaped])
    def test_changed_headers(self, again, damage: Callable[[dict[str, Any]], None]) -> None:
        again(lambda content: with_header(content, damage))

    @pytest.mark.parametrize("place", [3, 60, -9, -1])
    def test_a_flipped_bit(self, again, place: int) -> None:
        again(lambda content: bytes(b ^ (4 if i == place % len(content) else 0) for i, b in enumerate(content)))

    @pytest.mark.parametrize("file", reported("cache", ".safetensors"), ids=named)
    def test_reported_files(self, again, file: Path) -> None:
        def in_its_place(content: bytes) -> bytes:
            key = header(content)[0]["__metadata__"]
            return with_header(file.read_bytes(), lambda entries: entries.update(__metadata__=key))

        again(in_its_place)
