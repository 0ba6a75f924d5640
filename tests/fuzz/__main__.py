"""Fuzz what trimformer reads: `python -m tests.fuzz --kind data.csv --seed 17`, or a time box, `--seconds 60`.

Seeds make cases again: the same kind and seed is the same damage to the same file. What is not good ends the program
with 1; its files are kept in the folder of `--keep`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from fuzz import judge  # noqa: E402  # found by the line above, as pytest does
from fuzz.campaign import Campaign, Case  # noqa: E402
from fuzz.world import KINDS  # noqa: E402

AT_ONCE = 40
"""Cases that one process tries, so that nothing they leave behind in it adds up."""


def asked() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", choices=sorted({*KINDS, *(name.partition(".")[0] for name in KINDS)}))
    parser.add_argument("--seed", type=int, help="try this case only, or begin here with --cases or --seconds")
    parser.add_argument("--cases", type=int, help="so many of every kind")
    parser.add_argument("--seconds", type=float, help="go on so long")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for what is found")
    return parser.parse_args()


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Go through kinds in turn, seed by seed, until the number or the time is reached."""
    kinds = [name for name in KINDS if arguments.kind in (None, name, name.partition(".")[0])]
    first = arguments.seed or 0
    most = arguments.cases or (None if arguments.seconds else 1)
    end = time.monotonic() + arguments.seconds if arguments.seconds else None
    for number, kind in zip(count(), cycle(kinds)):
        seed = first + number // len(kinds)
        if (most is not None and seed >= first + most) or (end is not None and time.monotonic() > end):
            return
        yield kind, seed


def in_a_process(campaign: Campaign, some: list[tuple[str, int]], keep: Path) -> Iterator[Case]:
    """Try cases in a process of their own, and tell of one that ends it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            judge.limit_memory()
            with os.fdopen(writing, "w", buffering=1, errors="backslashreplace") as stream:
                for kind, seed in some:
                    case = campaign.run(kind, seed, keep)
                    stream.write("\t".join(" ".join(part.split()) for part in (case.what, *case.verdict)) + "\n")
        finally:
            os._exit(0)
    os.close(writing)
    left = list(some)
    with os.fdopen(reading, errors="replace") as stream:
        while left and (line := _line(stream)):
            what, word, why = line.rstrip("\n").split("\t")
            yield Case(*left.pop(0), what, judge.Verdict(word, why))
    if left:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if left:
        yield Case(*left.pop(0), "", judge.Verdict(judge.CRASH, "the process ended, or hangs where no signal reaches"))
        yield from in_a_process(campaign, left, keep) if left else ()


def _line(stream: object) -> str:
    """Wait for a line, twice as long as a case may take."""

    def ring(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(2 * judge.ASLEEP * judge.SECONDS)
    try:
        return stream.readline()  # type: ignore[attr-defined]
    except TimeoutError:
        return ""
    finally:
        signal.alarm(0)


def main() -> None:
    """Run the cases, print what is not good, and in the end how many ended how."""
    arguments, verdicts, bad = asked(), Counter[tuple[str, str]](), 0
    os.environ["TRIMFORMER_CACHE"] = "own-cache"
    keep = arguments.keep.resolve()
    with tempfile.TemporaryDirectory(prefix="trimformer-fuzz-") as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        campaign, wanted = Campaign(Path(scratch)), cases(arguments)
        while some := [case for case, _ in zip(wanted, range(AT_ONCE), strict=False)]:
            for case in in_a_process(campaign, some, keep):
                verdicts[case.kind, case.verdict.word] += 1
                bad += not case.is_good
                if not case.is_good or (arguments.cases is None and arguments.seconds is None):
                    print(
                        f"{case.kind} --seed {case.seed}: {case.what}: {case.verdict.word}: {case.verdict.why}",
                        flush=True,
                    )
    for (kind, word), number in sorted(verdicts.items()):
        print(f"{kind:14}{word:22}{number:6}")
    print(f"{sum(verdicts.values())} cases, {bad} not good" + (f"; their files are in {keep}" if bad else ""))
    sys.exit(bool(bad))


main()
