"""Kill commands at random moments, and start them twice at once: what they leave must be nothing, or what they promise.

    python tests/trust/killing.py --kills 300 --races 100 --seconds 3600 --seed 0

Every command runs on tiny models in a process that is forked from one which has imported everything: so a kill comes
upon work, hardly ever upon imports. A third of the kills waits for the first work that is kept for a resumed run. After
each kill the same command runs again, and must end with the bits of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

import commands  # found by the line above where this file is run
from conftest import MAX_LENGTH, build_tokenizer
from trimformer.cli import app
from trimformer.model import checkpoint
from trimformer.pruning import journal
from trimformer.training.checkpoints import SEAL

LOADED = [
    *commands.PRELOADED,
    "trimformer.cli.finetune_run",
    "trimformer.cli.unfinished",
    "trimformer.cli.export_run",
    "trimformer.compare.run",
    "trimformer.compare.plots",
    "trimformer.compare.markdown",
    "trimformer.report.frontier",
    "trimformer.vocabulary.trim",
    "trimformer.costs.latency",
    "trimformer.tasks.glue",
    "transformers.models.bert.modeling_bert",
]
FOR_EXPORT = ["trimformer.export.onnx.graph", "onnxruntime", "onnxscript", "torch.onnx._internal.exporter._core"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRAINED = ["per_device_train_batch_size=8", "learning_rate=1e-2", "num_train_epochs=3"]
PLAN = """\
tasks:
  one: {task: sst2, model: dense, data: data}
methods:
  magnitude:
  random: {options: {tune: false}}
budgets: [0.7, 0.4]
calibration_tokens: 100
"""
CHECKPOINT, JOURNAL = f"out.unfinished/**/{SEAL}", "out.unfinished/journal/*.safetensors"
WAITING, SOON = 0.5, 0.3
"""Share of the kills of a command with kept work that wait for the first of it; then they come soon: by its time."""
HANGS = 120.0
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Case:
    """A command, what it writes, and how to tell whether two outputs are the same."""

    name: str
    arguments: list[str]
    again: list[str]
    """Options of the run after a kill."""
    digest: Callable[[Path], str]
    """Reads an output as a whole; raises where it is half or empty."""
    kept: str = ""
    """Pattern of the files that a resumed run goes on from; none where it begins anew."""


def weights(folder: Path) -> str:
    """Digest of all weights of a checkpoint, or of several below a folder; the manifest must be there."""
    files = sorted(folder.rglob("*.safetensors"))
    assert files, f"{folder} has no weights: {sorted(folder.iterdir())}"
    digest = hashlib.sha256()
    for file in files:
        assert json.loads((file.parent / "trimformer.json").read_text())
        assert json.loads((file.parent / "config.json").read_text())
        with safe_open(file, framework="np") as stored:
            for name in sorted(stored.keys()):
                digest.update(name.encode() + stored.get_tensor(name).tobytes())
    return digest.hexdigest()


def graph(folder: Path) -> str:
    """Digest of an export."""
    assert json.loads((folder / "export.json").read_text())
    return hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()


def outcomes(folder: Path) -> str:
    """Digest of masks and metrics of the rows of a comparison; times differ."""
    told = (folder / "rows.jsonl").read_text().splitlines()
    found = sorted(
        json.dumps([row["task"], row["method"], row["outcome"]["units"], row["outcome"]["metrics"]])
        for row in map(json.loads, told)
    )
    assert found
    return hashlib.sha256("".join(found).encode()).hexdigest()


def cases(place: Path) -> list[Case]:
    """All commands, on the models and rows in a folder; each writes to `out`."""
    data = ["--task", "sst2", "--data", str(place / "data")]
    out, dense = ["--out", "out"], str(place / "dense")
    tokens = ["--calibration-tokens", "200"]
    train = [part for each in TRAINED for part in ("--train", each)]
    texts = ["--texts", str(place / "data" / "train.jsonl")]
    resume = ["--resume"]
    return [
        Case(
            "prune",
            ["prune", dense, *data, *out, *tokens, "--flops", "0.5", "--method", "kprune"],
            resume,
            weights,
            JOURNAL,
        ),
        Case(
            "blocks",
            ["prune", dense, *data, *out, *tokens, "--flops", "0.5", "--set", "epochs=2"],
            resume,
            weights,
            JOURNAL,
        ),
        Case("sweep", ["sweep", dense, *data, *out, *tokens, "--flops", "0.7,0.4"], resume, weights, JOURNAL),
        Case("finetune", ["finetune", dense, *data, *out, *train], resume, weights, CHECKPOINT),
        Case("compare", ["compare", str(place / "plan.yaml"), *out], [], outcomes, "out/rows.jsonl"),
        Case("export", ["export", dense, "--onnx", *out], ["--overwrite"], graph),
        Case("vocabulary", ["vocabulary", dense, *texts, *out], ["--overwrite"], weights),
    ]


def prepare(place: Path) -> None:
    """Write a tiny model, rows and a plan into a folder."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=MAX_LENGTH, initializer_range=0.2, num_labels=2, **sizes
    )
    model = transformers.BertForSequenceClassification(config).eval()
    checkpoint.write(model, place / "dense", tokenizer=tokenizer)
    (place / "data").mkdir()
    commands.write(place / "data" / "train.jsonl", commands.rows(60, seed=0))
    commands.write(place / "data" / "validation.jsonl", commands.rows(16, seed=1))
    (place / "plan.yaml").write_text(PLAN)


class Started:
    """A command in a forked process, in a folder of its own with a place for scratch files."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        self.folder, self.error, self.ready = folder, folder / "error.txt", folder / "ready"
        self.error.touch()
        environment = {"TMPDIR": str(scratch), "TRIMFORMER_CACHE": str(folder / "cache"), "COLUMNS": "200"}
        context = commands.forkserver()
        self.process = context.Process(target=run_there, args=(arguments, environment, folder, self.error))
        self.process.start()
        while not self.ready.exists():
            time.sleep(0.005)
        self.start = time.monotonic()
        self.ready.unlink()

    def end(self) -> int:
        """Wait for its end, and give its exit code."""
        self.process.join(HANGS)
        assert self.process.exitcode is not None, f"it hangs: {self.error.read_text()}"
        return self.process.exitcode

    def wait_for(self, pattern: str) -> None:
        """Wait for a file in its current folder, at most until its end."""
        ends = time.monotonic() + HANGS
        while self.process.is_alive() and time.monotonic() < ends:
            with suppress(FileNotFoundError):  # folders go while one looks
                if any((self.folder / "there").glob(pattern)):
                    return
            time.sleep(0.002)

    def kill(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, number)


def run_there(arguments: list[str], environment: dict[str, str], folder: Path, error: Path) -> None:
    """Run a command in this process, which is a fork."""
    os.environ.update(environment)
    tempfile.tempdir = None
    os.chdir(folder / "there")
    stream = os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    journal.EVERY_SECONDS = 0.0
    (folder / "ready").touch()
    app.main(arguments)


@contextmanager
def workshop(*more: str) -> Iterator[Path]:
    """Within the context, there is a folder with what the commands need; processes have imported `more` as well."""
    commands.PRELOADED[:] = [*LOADED, *more]
    with tempfile.TemporaryDirectory(prefix="killing-") as folder:
        prepare(Path(folder))
        yield Path(folder)


def fresh(place: Path) -> Path:
    """Make the folder of a run, with `there` as the current one."""
    folder = Path(tempfile.mkdtemp(dir=place, prefix="run-"))
    (folder / "there").mkdir()
    return folder


def reference(case: Case, place: Path) -> tuple[str, float]:
    """Run a command to its end: the digest of what it writes, and its seconds."""
    folder = fresh(place)
    started = Started(case.arguments, folder)
    assert started.end() == 0, started.error.read_text()
    seconds = time.monotonic() - started.start
    assert left_over(folder) == []
    found = case.digest(folder / "there" / "out")
    shutil.rmtree(folder)
    return found, seconds


def left_over(folder: Path) -> list[str]:
    """List what should not be there beside the output, in it, and among scratch files."""
    there, hidden = folder / "there", list((folder / "there").rglob(".*"))
    beside = [path for path in there.iterdir() if path.name != "out"]
    scratch = [path for path in (folder / "scratch").iterdir() if path.name.startswith("trimformer")]
    return sorted({str(path.relative_to(folder)) for path in (*hidden, *beside, *scratch)})


def kill_once(case: Case, place: Path, number: int, after: float, whole: str, *, waits: bool = False) -> str:
    """Kill a command once, run it again, and check all; tells what the kill met.

    Args:
        case: the command.
        place: folder of `prepare`.
        number: the signal.
        after: seconds after its start, or after the first work that is kept, with `waits`.
        whole: digest of what a run writes that is not killed.
        waits: whether to wait until there is work that a resumed run goes on from.
    """
    folder = fresh(place)
    out = folder / "there" / "out"
    started = Started(case.arguments, folder)
    if waits:
        started.wait_for(case.kept)
    time.sleep(after)
    started.kill(number)
    code, said = started.end(), started.error.read_text()
    if number != signal.SIGKILL and code != 0:
        assert code in (128 + number, -number), (code, said)
        hidden = [name for name in left_over(folder) if "unfinished" not in name]
        assert hidden == [] or code < 0, (hidden, said)
    if code == 0:
        assert left_over(folder) == [], said
    if out.exists() and case.name not in ("sweep", "compare"):
        assert case.digest(out) == whole, "half an output"
    kept = (folder / "there" / "out.unfinished").exists()
    again = Started([*case.arguments, *case.again, *(["--overwrite"] if out.exists() else [])], folder)
    assert again.end() == 0, (again.error.read_text(), said)
    assert case.digest(out) == whole, "other bits than those of a run that was not killed"
    assert left_over(folder) == [], (left_over(folder), again.error.read_text())
    resumed = kept and any(word in again.error.read_text() for word in ("going on from", "reusing what"))
    shutil.rmtree(folder)
    return "ended before" if code == 0 else "resumed" if resumed else "work kept" if kept else "begun anew"


def race_once(case: Case, place: Path, apart: float, whole: str) -> str:
    """Start a command twice at once: one writes, the other is told; tells at which moment."""
    folder, other = fresh(place), fresh(place)
    shutil.rmtree(other / "there")
    (other / "there").symlink_to(folder / "there")
    first = Started(case.arguments, folder)
    time.sleep(apart)
    second = Started(case.arguments, other)
    codes = sorted([first.end(), second.end()])
    said = first.error.read_text() + second.error.read_text()
    assert codes in ([0, 2], [0, 0]), (codes, said)
    assert codes == [0, 2] or case.name == "compare", said  # one after the other: its rows are there
    told = "another run is at work" in said
    assert told or "exists" in said or codes == [0, 0], said
    assert case.digest(folder / "there" / "out") == whole
    assert left_over(folder) == []
    shutil.rmtree(folder)
    shutil.rmtree(other)
    return "told at its start" if told else "came after"


def many(
    what: str, count: int, ends: float, seed: int, place: Path, known: dict[str, tuple[Case, str, float]]
) -> Counter[str]:
    """Do so many kills or races, or until the time is up; the first failure is raised with the way to see it again."""
    found: Counter[str] = Counter()
    names = sorted(known)
    for index in range(count):
        if time.monotonic() > ends:
            break
        draw = random.Random(f"{seed} {what} {index}")  # noqa: S311  # moments to kill at
        case, whole, seconds = known[names[index % len(names)]]
        waits = what == "kill" and bool(case.kept) and draw.random() < WAITING
        after, number = draw.uniform(0, seconds) * (SOON if waits else 1), draw.choice(SIGNALS)
        try:
            met = (
                kill_once(case, place, number, after, whole, waits=waits)
                if what == "kill"
                else race_once(case, place, after * draw.choice((0, 0.1, 0.5)), whole)
            )
        except (AssertionError, OSError, SafetensorError, KeyError, ValueError) as error:
            how = f"{what} {index} of seed {seed}: {case.name}, {signal.Signals(number).name} after {after:.3f} s"
            how += " of kept work" if waits else ""
            raise AssertionError(f"{how}: {error!r}") from error
        found[f"{case.name}: {met}"] += 1
        found[met] += 1
    return found


def main() -> None:
    """Read the options, kill and race, and print what was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--races", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3600.0, help="the time box")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one command")
    asked = parser.parse_args()
    ends = time.monotonic() + asked.seconds
    with workshop(*FOR_EXPORT) as place:
        chosen = [case for case in cases(place) if asked.only in (None, case.name)]
        known = {case.name: (case, *reference(case, place)) for case in chosen}
        write = sys.stdout.write
        write("seconds of a whole run: " + ", ".join(f"{name} {s:.1f}" for name, (_, _, s) in known.items()) + "\n")
        sys.stdout.flush()
        for what, count in (("kill", asked.kills), ("race", asked.races)):
            found = many(what, count, ends, asked.seed, place, known)
            done = sum(number for name, number in found.items() if ":" not in name)
            write(f"{done} of {count} {what}s, all as they should be\n")
            for name, number in sorted(found.items()):
                write(f"  {number:4} {name}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
