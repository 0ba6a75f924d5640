"""Files that ended in a traceback, a hang or another model: measurements, rows and compare files, damaged as reported.

The reported files themselves are tried where they are at hand, in `shared/cases/faults` beside the repository; the same
damage is made here, so that nothing depends on them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset

from commands import Run, assert_mistake, rows, write
from trimformer import Budget, Pruner, PruningResult, prune
from trimformer.compare.settings import read_settings
from trimformer.data.files import read_rows
from trimformer.data.readers import read_table
from trimformer.errors import DataError, InvalidOption, TrimformerError
from trimformer.model import checkpoint
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


def one_line(error: pytest.ExceptionInfo[TrimformerError], *said: str) -> None:
    assert "\n" not in str(error.value)
    for part in said:
        assert part in str(error.value)


def parquet(file: Path, said: bytes, *, texts: pa.Array | None = None) -> None:
    """A table of two rows, with what its metadata says of its columns."""
    table = pa.table({"text": pa.array(["a", "b"]) if texts is None else texts, "label": [0, 1]})
    pa.parquet.write_table(table.replace_schema_metadata({b"huggingface": said}), file)


def features(**columns: Any) -> bytes:
    return json.dumps({"info": {"features": columns}}).encode()


class TestRows:
    """A damaged file of rows is one line with its name; it neither ends in a traceback nor ends Python."""

    def test_a_packed_file_that_explodes_is_not_unpacked(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.csv.gz"
        file.write_bytes(gzip.compress(b"text\n" + b"a" * (80 * 2**20), compresslevel=9))
        with pytest.raises(DataError, match=r"rows\.csv\.gz: it unpacks to more than 200 times its size"):
            read_table(file)
        file.write_bytes(gzip.compress(b"text\n" + b"good\n" * 10**5))
        assert read_table(file).num_rows == 10**5

    @pytest.mark.parametrize(
        "said",
        [
            b"{bad",
            b"[1]",
            features(text={"_type": "Nope"}, label={"_type": "Value", "dtype": "int64"}),
            features(text={"_type": "Value", "dtype": "string"}, label={"names": ["a"], "_type": "ClassLabel"}),
            features(text={"_type": "Value", "dtype": "nonsense"}, label={"_type": "Value", "dtype": "int64"}),
        ],
    )
    def test_what_a_parquet_file_says_of_its_columns(self, tmp_path: Path, said: bytes) -> None:
        parquet(tmp_path / "x.parquet", said)
        with pytest.raises(DataError) as error:
            read_rows(str(tmp_path / "x.parquet"), "train")
        one_line(error, "x.parquet")

    def test_texts_of_a_parquet_file_that_are_not_utf8(self, tmp_path: Path) -> None:
        texts = pa.StringArray.from_buffers(
            2, pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 2))), pa.py_buffer(b"a\xa3")
        )
        pa.parquet.write_table(pa.table({"text": texts}), tmp_path / "x.parquet")
        with pytest.raises(DataError) as error:
            read_rows(str(tmp_path / "x.parquet"), "train")
        one_line(error, "x.parquet", "UTF8")

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("x.csv", b"sentence,label,label\na,1,2\nb,0,1\n", "several columns 'label'"),
            ("x.jsonl", b'{"text": "a"}\n{"text": "\x88"}\n', "line 2 is not UTF-8"),
            ("x.json", b'[{"text": ' + b"[" * 10**5 + b"]" * 10**5 + b"}]", "recursion"),
            ("x.jsonl", b'{"text": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "recursion"),
            ("x.jsonl", b'null\n{"text": "a"}\n', "line 1 is damaged, not an object"),
            ("x.json", b'null\n[{"text": "a"}]', "line 1 is damaged, not an object"),
            ("x.jsonl", b'{"text": ' + b"[" * 400 + b"]" * 400 + b"}", "within each other"),
        ],
    )
    def test_text_files(self, tmp_path: Path, name: str, content: bytes, said: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as error:
            read_rows(str(tmp_path / name), "train")
        one_line(error, name, said)

    def test_saved_datasets_whose_texts_are_damaged(self, tmp_path: Path) -> None:
        Dataset.from_dict({"text": ["words"] * 9}).save_to_disk(str(tmp_path / "saved"))
        (file,) = (tmp_path / "saved").glob("*.arrow")
        file.write_bytes(file.read_bytes().replace(b"words", b"w\xffrds"))
        with pytest.raises(DataError) as error:
            read_rows(str(tmp_path / "saved"), "train")
        one_line(error, "saved", "UTF8")

    @pytest.mark.parametrize("file", reported("data", ".csv", ".json", ".jsonl", ".parquet"), ids=named)
    def test_reported_files(self, file: Path) -> None:
        with pytest.raises(DataError) as error:
            read_rows(str(file), "train")
        one_line(error, file.name)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join(f'*{old}' for _ in range(10))}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join(f'*{old}' for _ in range(10))}]}}\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


class TestCompareFiles:
    """A compare file is bounded before anything is made of it, and a mistake in it is told with its line."""

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (BOMB, "line 4: more than 10,000 values"),
            (MERGED, "line 5: more than 10,000 values"),
            ("a: " + "[" * 40 + "]" * 40, "line 1: more than 32 lists and keys within each other"),
            ("a: " + "[" * 10**5 + "]" * 10**5, "is no YAML"),
            ("a: &a [*a]", "within each other"),
            ("#" * 2**18 + "\n", "more than 262,144 bytes"),
            ("a: 1\nb: !!timestamp x", "line 2: x is no timestamp"),
            ("!!timestamp x: 1", "line 1: x is no timestamp"),
            ("a: !!int 0x", "line 1: 0x is no int"),
            ("a: !!python/name:os.system", "line 1: could not determine a constructor"),
            ("a: !own 1", "line 1: could not determine a constructor"),
            ("? [a]\n: 1", "line 1: a key must be text"),
            ('a: "\\ud800"', "line 1"),
            ("a: \0", "is no YAML"),
        ],
        ids=lambda given: given[:20],
    )
    def test_made_here(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "plan.yaml").write_text(text)
        with pytest.raises(InvalidOption) as error:
            read_settings(tmp_path / "plan.yaml")
        one_line(error, "plan.yaml", said)

    @pytest.mark.parametrize("file", reported("yaml", ".yaml"), ids=named)
    def test_reported_files(self, file: Path) -> None:
        with pytest.raises(InvalidOption) as error:
            read_settings(file)
        one_line(error, file.name, "line ")

    def test_aliases_within_bounds_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "plan.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a\n")
        assert read_settings(tmp_path / "plan.yaml").plain() == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}


class TestTokensOutsideTheVocabulary:
    """A tokenizer that knows more tokens than the model is a mistake that is told, not an index out of range."""

    @pytest.fixture
    def world(self, tiny_bert, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        model = tiny_bert(num_labels=2)
        tokenizer.add_tokens(["zebra"])
        checkpoint.write(model, tmp_path / "model", tokenizer=tokenizer, manifest=None)
        (tmp_path / "rows").mkdir()
        for split, seed in (("train", 0), ("validation", 1)):
            given = [{**row, "sentence": f"{row['sentence']} zebra"} for row in rows(40, seed=seed)]
            write(tmp_path / "rows" / f"{split}.jsonl", given)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        "command",
        [
            "evaluate model --task sst2 --data rows",
            "prune model --task sst2 --data rows --flops 0.5 --calibration-tokens 150 --out out",
            "finetune model --task sst2 --data rows --train max_steps=1 --out out",
            "export model --onnx --task sst2 --data rows --out out",
        ],
    )
    def test_commands(self, world: Path, run: Run, command: str) -> None:
        assert_mistake(run(*command.split()), "token id", "outside the vocabulary", "tokenizer")
        assert not (world / "out").exists()

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ({"input_ids": [2, 999, 3]}, "token id 999"),
            ({"input_ids": [2, 2**40, 3]}, "token id 1099511627776"),
            ({"input_ids": [2, -5, 3]}, "from 0 up"),
            ({"input_ids": [2, 5, 3], "token_type_ids": [0, 7, 0]}, "token type 7"),
            ({"input_ids": [2, 5, 3], "labels": 9}, "outside 0 to 1"),
        ],
    )
    def test_rows_in_python(self, tiny_bert, row: dict[str, Any], said: str) -> None:
        given = [{"labels": 0, **row}, {"input_ids": [2, 6, 3], "labels": 1, "token_type_ids": [0, 0, 0]}]
        with pytest.raises(TrimformerError) as error:
            prune(
                tiny_bert(),
                given,
                budget=Budget(flops=0.5),
                method="mask_tuning",
                calibration_tokens=None,
                progress=False,
            )
        one_line(error, said)
