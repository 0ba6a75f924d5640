"""Outputs: exchanged at once, claimed by one run, cleared of what dead runs left; nothing half on a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from commands import Run, assert_mistake, rows, write
from conftest import TinyBert
from trimformer.cli import app
from trimformer.cli.signals import Asked, ending_at_signals
from trimformer.errors import CheckpointError
from trimformer.model import checkpoint, claims, folders

HOLD = """
import sys, time
from trimformer.model.claims import claimed
with claimed(sys.argv[1]) as beside:
    (beside / "half").mkdir()
    (beside / "half" / "weights").write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Within the context, another process is at work on an output."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        try:
            yield other
        finally:
            other.kill()


def fill(out: Path, text: str) -> None:
    with folders.whole_folder(out) as new:
        new.mkdir()
        (new / "file").write_text(text)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_and_nothing_stays_beside_it(
    can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda *_: False)
    for text in ("one", "two"):
        fill(tmp_path / "out", text)
        assert (tmp_path / "out" / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
def test_the_final_name_is_never_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out", "one")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("a rename leaves the name empty for a moment"))
    fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / "file").read_text() == "two"


def test_a_link_is_written_through(tmp_path: Path) -> None:
    fill(tmp_path / "target", "one")
    for name, write_it in (
        ("folder", lambda out: fill(out, "two")),
        ("file", lambda out: folders.write_text("x", out)),
    ):
        (tmp_path / name).symlink_to(tmp_path / ("target" if name == "folder" else "target.txt"))
        write_it(tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "target" / "file").read_text() == "two"
    assert (tmp_path / "target.txt").read_text() == "x"


def test_a_second_run_is_told_and_a_dead_one_cleared(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with held(out) as other:
        for attempt in (lambda: fill(out, "mine"), lambda: folders.check_place(out)):
            with pytest.raises(CheckpointError, match=r"another run is at work on .*out: wait until it has ended"):
                attempt()
        assert (out.parent / ".out.trimformer" / "half").exists(), "a live run's folder is left alone"
        other.kill()
        other.wait()
    fill(out, "mine")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_output_put_aside_by_a_dead_run_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / ".out.trimformer" / "room" / claims.OLD
    aside.mkdir(parents=True)
    (aside / "file").write_text("one")
    folders.check_place(tmp_path / "out")
    assert (tmp_path / "out" / "file").read_text() == "one"


def test_without_locks_outputs_are_written_and_nothing_of_others_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    (tmp_path / ".out.trimformer" / "other").mkdir(parents=True)
    monkeypatch.setattr(claims.fcntl, "flock", no_locks)
    fill(tmp_path / "out", "one")
    assert (tmp_path / "out" / "file").read_text() == "one"
    assert (tmp_path / ".out.trimformer" / "other").exists()


def test_what_comes_to_be_there_while_a_folder_is_filled_is_not_replaced(tmp_path: Path) -> None:
    def refuse() -> None:
        if (tmp_path / "out").exists():
            raise CheckpointError("it exists")

    def fill_while_another_does() -> None:
        with folders.whole_folder(tmp_path / "out", refuse) as new:
            new.mkdir()
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()

    with pytest.raises(CheckpointError, match="it exists"):
        fill_while_another_does()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_scratch_folders_of_dead_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / "trimformer-dead"
    dead.mkdir()
    (dead / claims.LOCK).touch()
    with claims.scratch_folder() as live, claims.scratch_folder():
        assert not dead.exists()
        assert live.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_end_a_run_as_ctrl_c_does(number: int, code: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimformer.cli.steps.check_asked", lambda *_, **__: os.kill(os.getpid(), number))
    found = run("prune", "nowhere", "--out", "out", "--flops", "0.5")
    assert found.code == code
    assert found.err.strip() == "Error: " + (
        "interrupted" if code == 130 else f"stopped by {signal.Signals(number).name}"
    )
    assert signal.getsignal(signal.SIGTERM) is not Asked


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    "turned_into", [CheckpointError("config.json describes no model"), RuntimeError("empty stack")]
)
def test_a_signal_in_the_middle_of_a_library_is_an_interruption(
    turned_into: Exception, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the wrong place of a library may come out as another, or be taken for damage."""

    def library(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            raise turned_into

    monkeypatch.setattr("trimformer.cli.steps.check_asked", library)
    found = run("prune", "nowhere", "--out", "out", "--flops", "0.5")
    assert (found.code, found.err.strip()) == (130, "Error: interrupted")


def test_signals_that_are_ignored_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_at_signals() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
        assert asked.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["/bin/umount", "-l", place], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    small_disk: Path, run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer)
    write(tmp_path / "texts.jsonl", rows(20, seed=0))
    (small_disk / "fills").write_bytes(b"x" * 40_000)
    asked = ["--texts", tmp_path / "texts.jsonl", "--out", small_disk / "out"]
    assert_mistake(run("vocabulary", dense, *asked), "cannot write", "No space left", "free some space")
    assert [path.name for path in small_disk.iterdir()] == ["fills"]


def test_a_full_disk_is_told_of_tokenizers_tables_and_pictures(small_disk: Path, tokenizer: Any) -> None:
    (small_disk / "fills").write_bytes(b"x" * 60_000)
    with (
        pytest.raises(CheckpointError, match=r"cannot write .*free some space"),
        folders.whole_folder(small_disk / "out") as new,
    ):
        tokenizer.save_pretrained(new)
    with pytest.raises(CheckpointError, match="No space left"):
        folders.write_text("x" * 60_000, small_disk / "report.html")
    assert [path.name for path in small_disk.iterdir()] == ["fills"]


def test_a_full_disk_anywhere_else_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("trimformer.cli.steps.check_asked", full)
    assert_mistake(run("prune", "nowhere", "--out", "out", "--flops", "0.5"), "somewhere", "No space left")
    assert app.FULL
