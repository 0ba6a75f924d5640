"""Plant faults into a copy of the package, one at a time, and show which test catches each.

`python tests/plant_faults.py`; not part of the suite. The tests that are named for a fault must pass without it. Prints
a Markdown table; exits with 1 if a fault is not caught. A fault whose text is not found exactly once is an error, so
that the list keeps up with the code. `--only WORD` plants those whose meaning or file has the word in it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "src/trimformer/"
KPRUNE, SURGEON, HAND = (f"tests/truth/test_{name}.py" for name in ("kprune_truth", "surgeon_truth", "by_hand"))
ORDERING, FISHER = "tests/truth/test_ordering.py", "tests/truth/test_fisher_truth.py"
REUSE, DEVICES = "tests/truth/test_reuse.py", "tests/truth/test_devices.py"
MANIFEST, WHEEL = (
    "tests/contract/test_manifest_truth.py",
    "tests/contract/test_wheel.py::test_it_holds_the_package_and_nothing_else",
)
TRUST = {name: f"tests/trust/test_{name}.py" for name in ("whole_or_not_at_all", "journal", "interrupted_anywhere")}
WHOLE, JOURNAL, INTERRUPTED = TRUST.values()
RESUMED = "tests/unit/test_finetuning.py"
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """One wrong change of a file, and the tests that are to notice it."""

    meaning: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def of(meaning: str, file: str, old: str, new: str, *tests: str) -> Fault:
    """A fault in a file of the package."""
    return Fault(meaning, SOURCE + file, old, new, tests)


METHOD, CHOOSE, REFIT = "methods/", "pruning/choose/", "pruning/refit/"
PREDICTIONS, DEVICE_OF_SIGNS = "observing/predictions.py", "torch.stack(rows).to(predicted.values.device)"
SCORE = "return weight * knowledge / job.unit_cost(site)"

FAULTS = (
    # K-prune
    of("K-prune's score negated", METHOD + "kprune.py", SCORE, f"{SCORE} * -1", KPRUNE),
    of("K-prune's order turned round, seen by its models", METHOD + "kprune.py", SCORE, f"{SCORE} * -1", ORDERING),
    of("mu not used", METHOD + "kprune.py", "self.mu / site.unit_width", "64.0 / site.unit_width", KPRUNE),
    of("mu not divided by a head's width", METHOD + "kprune.py", "self.mu / site.unit_width", "self.mu", KPRUNE),
    of("gamma not used", METHOD + "kprune.py", "predicted, self.gamma)", "predicted)", KPRUNE),
    of("gamma not squared before the divergence", PREDICTIONS, "= temperature**2 *", "= temperature *", KPRUNE),
    of("lambda_pred not used", METHOD + "kprune.py", "self.lambda_pred * predictive", "predictive", KPRUNE),
    of("lambda_rep not used", METHOD + "kprune.py", "self.lambda_rep * representational", "representational", KPRUNE),
    of("slopes not squared", METHOD + "kprune.py", "terms.double().square()", "terms.double().abs()", KPRUNE),
    of("slopes squared by batch", METHOD + "kprune.py", "if self.batch_fisher else", "if True else", KPRUNE),
    of(
        "padding counts as representational knowledge",
        METHOD + "kprune.py",
        "unit_second_moments(seen.rows.float()",
        "unit_second_moments(seen.inputs.flatten(0, 1).float()",
        KPRUNE,
    ),
    of("knowledge not divided by the cost", METHOD + "kprune.py", SCORE, "return weight * knowledge", KPRUNE),
    of(
        "the budget does not shrink along the walk",
        METHOD + "kprune.py",
        "left -= total_cost",
        "0 * total_cost",
        KPRUNE,
    ),
    of(
        "slopes by a unit's output, not by its mask",
        CHOOSE + "scoring.py",
        "(inputs.float() * gradients.float())",
        "gradients.float()",
        KPRUNE,
    ),
    of("the lowest scores are kept", CHOOSE + "search.py", "flat, descending=True", "flat, descending=False", KPRUNE),
    # the refit
    of(
        "the refit follows the residual stream before the sublayer",
        REFIT + "walk.py",
        "leaving - residual.float()",
        "leaving",
        KPRUNE,
    ),
    of(
        "the refit's bias forgets the inputs' mean",
        REFIT + "least_squares.py",
        " - sums.input_mean @ weight",
        "",
        KPRUNE,
    ),
    of(
        "the ridge pulls to zero",
        REFIT + "least_squares.py",
        "strength * prior.double()",
        "0 * prior.double()",
        SURGEON,
    ),
    of(
        "the ridge pulls in proportion to one token",
        REFIT + "least_squares.py",
        "ridge * float",
        "0.1 * ridge * float",
        SURGEON,
    ),
    # Surgeon
    of(
        "the most useful head goes first",
        CHOOSE + "curves.py",
        "int(candidates.argmin())",
        "int(candidates.argmax())",
        SURGEON,
    ),
    of(
        "the most useful neuron goes first",
        CHOOSE + "curves.py",
        "(norms / diagonal).argmin()",
        "(norms / diagonal).where(norms < torch.inf, -1.0).argmax()",
        SURGEON,
    ),
    of(
        "the most useful neuron goes first, seen by its models",
        CHOOSE + "curves.py",
        "(norms / diagonal).argmin()",
        "(norms / diagonal).where(norms < torch.inf, -1.0).argmax()",
        ORDERING,
    ),
    of(
        "Surgeon's last choice turned round",
        METHOD + "surgeon.py",
        "metric, weight, removals=count).order",
        "metric, weight).order[-count:]",
        SURGEON,
    ),
    of(
        "the dearest removals first",
        CHOOSE + "search.py",
        "key=lambda removal: removal[0]",
        "key=lambda removal: -removal[0]",
        SURGEON,
    ),
    of("a curve's cost is doubled", CHOOSE + "curves.py", "(cost / 2)", "cost", SURGEON),
    of(
        "others do not make up for what goes",
        CHOOSE + "curves.py",
        "values -= share @ values[gone]",
        "values -= 0 * share @ values[gone]",
        SURGEON,
    ),
    of(
        "the metric is a sum, not a mean over sequences",
        METHOD + "surgeon.py",
        "seen.gradients / calibration.sequences",
        "seen.gradients",
        SURGEON,
    ),
    of(
        "the Gram matrix is never centred",
        METHOD + "surgeon.py",
        "sums.covariance if self.intercept",
        "sums.gram if self.intercept",
        SURGEON,
    ),
    of(
        "the metric is not damped", METHOD + "surgeon.py", "gram.device), self.damping)", "gram.device), 1e-9)", SURGEON
    ),
    of(
        "focus weighs tokens the other way",
        METHOD + "surgeon.py",
        "self.focus * energy / energy.mean()",
        "self.focus * energy.mean() / energy",
        SURGEON,
    ),
    # the other methods
    of("magnitude inverted", METHOD + "magnitude.py", ".square().sum((1, 2))", ".square().sum((1, 2)).neg()", HAND),
    of("magnitude of absolute values", METHOD + "magnitude.py", ".square().sum((1, 2))", ".abs().sum((1, 2))", HAND),
    of("KCM without representation", METHOD + "kcm.py", "score=representative * (", "score=1.0 * (", HAND),
    of("KCM's activity with its sign", METHOD + "kcm.py", ".abs().sum(0)", ".sum(0)", HAND),
    of("KCM's width of the kernel not squared", CHOOSE + "scoring.py", "(2 / sigma**2)", "(2 / sigma)", HAND),
    of("mask tuning's worst split", CHOOSE + "allocation.py", "int(totals.argmax())", "int(totals.argmin())", HAND),
    of(
        "mask tuning exchanges what adds up",
        CHOOSE + "allocation.py",
        "alone - 2 * with_removed",
        "alone + 2 * with_removed",
        HAND,
    ),
    of(
        "mask tuning's teacher is whole",
        REFIT + "rescaling.py",
        "math.sqrt(job.limit * ",
        "math.sqrt(1e9 * job.limit * ",
        HAND,
    ),
    of("mask tuning scales without damping", REFIT + "rescaling.py", "add_(damping * float", "add_(0 * float", HAND),
    of("dual CP by the farthest pair", CHOOSE + "clustering.py", 'method="average"', 'method="complete"', HAND),
    of("dual CP by the nearest pair", CHOOSE + "clustering.py", 'method="average"', 'method="single"', HAND),
    of(
        "dual CP keeps the least active",
        CHOOSE + "clustering.py",
        "key=lambda unit: -rank[unit]",
        "key=lambda unit: rank[unit]",
        HAND,
    ),
    of(
        "dual CP's cosines with their sign",
        CHOOSE + "clustering.py",
        "(directions.T @ directions).abs()",
        "(directions.T @ directions)",
        HAND,
    ),
    of(
        "dual CP's lambda inverted",
        METHOD + "dual_cp.py",
        "removed / (1 + ratio)",
        "removed * ratio / (1 + ratio)",
        HAND,
    ),
    of("attention counted half", "costs/flops.py", "4 * length**2", "2 * length**2", HAND),
    # Fisher directions
    of(
        "the Fisher root of several classes is wrong",
        PREDICTIONS,
        "root * (signs - root * (root * signs)",
        "root * (signs - (root * signs)",
        FISHER,
    ),
    of(
        "the Fisher root of several classes is not projected",
        PREDICTIONS,
        "root * (signs - root * (root * signs).sum(-1, keepdim=True))",
        "root * signs",
        FISHER,
    ),
    of(
        "the Fisher root of two classes is wrong",
        PREDICTIONS,
        "new_tensor([1.0, -1.0])",
        "new_tensor([1.0, 1.0])",
        FISHER,
        SURGEON,
    ),
    of(
        "an axis guessed from sizes",
        PREDICTIONS,
        "if predicted.token_axis is not None:",
        "if len(signs) == len(mask):",
        FISHER,
    ),
    of(
        "predictions of padding count",
        PREDICTIONS,
        "counted = predicted.weights > 0",
        "counted = predicted.weights >= 0",
        FISHER,
    ),
    # devices
    of("signs stay on the CPU", PREDICTIONS, DEVICE_OF_SIGNS, "torch.stack(rows)", DEVICES),
    of("batches stay where they were", "data/given.py", "name: values.to(device) for", "name: values for", DEVICES),
    of(
        "indices of a cut stay on the CPU",
        "model/surgery.py",
        ".nonzero()[:, 0].to(projection.weight.device)",
        ".nonzero()[:, 0]",
        DEVICES,
    ),
    of(
        "a teacher's masks stay on the CPU",
        "model/masking.py",
        "factor.to(inputs[0])",
        "factor.to(inputs[0].dtype)",
        DEVICES,
    ),
    # what is measured once
    of(
        "an option of Surgeon is missing from the key",
        METHOD + "surgeon.py",
        '= ("damping", "curve_ridge"',
        '= ("curve_ridge"',
        REUSE,
    ),
    of(
        "an option of KCM is missing from the key", METHOD + "kcm.py", '= ("sigma", "tolerance")', '= ("sigma",)', REUSE
    ),
    of(
        "options are missing from the key", "pruning/fingerprint.py", "if name in method.measured_by", "if False", REUSE
    ),
    of("the seed is missing from the key", "pruning/fingerprint.py", '"seed": calibration.seed', '"seed": 0', REUSE),
    of("labels are missing from the key", "pruning/fingerprint.py", "*(calibration.labels or [])", "", REUSE),
    of(
        "Surgeon changes what it measured",
        METHOD + "surgeon.py",
        "RemovalCurve(each.order, each.cost)",
        "RemovalCurve(each.order, each.cost.mul_(2))",
        REUSE,
    ),
    of(
        "mask tuning changes what it measured",
        METHOD + "mask_tuning.py",
        ".gradients.square().sum(0)",
        ".gradients.square_().sum(0)",
        REUSE,
    ),
    # nothing lost
    of(
        "the final name is empty for a moment",
        "model/folders.py",
        "if not (target.exists() and _exchanged(new, target)):",
        "__import__('shutil').rmtree(target, ignore_errors=True)\n    if not target.exists():",
        WHOLE,
    ),
    of("an output is not claimed", "model/claims.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_UN", WHOLE),
    of(
        "what dead runs left stays",
        "model/claims.py",
        "if is_locked:\n                    _clear",
        "if False:\n                    _clear",
        WHOLE,
    ),
    of(
        "an output is replaced unseen",
        "model/folders.py",
        "        check()\n        _put_in_place",
        "        _put_in_place",
        WHOLE,
    ),
    of("SIGTERM is not handled", "cli/signals.py", '("SIGTERM", "SIGHUP")', '("SIGHUP",)', WHOLE),
    of("what is damaged is believed", "pruning/cache.py", "if _seal(key, measured) != said:", "if False:", JOURNAL),
    of(
        "a journal of another budget is believed",
        "pruning/journal.py",
        '"model": _digest(list(self.journal.about))',
        '"model": _digest([])',
        JOURNAL,
    ),
    of("a journal is read past a gap", "pruning/journal.py", "self._is_open = found is not None", "", JOURNAL),
    of(
        "hooks stay after an interruption",
        "model/unchanged.py",
        "in (*attributes, *tables, *configs):",
        "in (*attributes, *configs):",
        INTERRUPTED,
    ),
    of(
        "a config stays changed after an interruption",
        "model/unchanged.py",
        "in (*attributes, *tables, *configs):",
        "in (*attributes, *tables):",
        INTERRUPTED,
    ),
    of(
        "weights need other gradients after an interruption",
        "model/unchanged.py",
        "weight.requires_grad_(needed)",
        "pass",
        INTERRUPTED,
    ),
    of("gradients stay after an interruption", "model/unchanged.py", "weight.grad = gradient", "pass", INTERRUPTED),
    of(
        "a damaged training checkpoint is believed",
        "training/checkpoints.py",
        "return bool(sealed == _digests(checkpoint))",
        "return bool(sealed)",
        RESUMED,
    ),
    # the manifest and the wheel
    of(
        "the manifest counts all units as kept",
        "pruning/facts.py",
        "before.kept + int(masks[site.name].sum())",
        "before.kept + site.units",
        MANIFEST,
    ),
    of(
        "the manifest counts the dense model's parameters",
        "pruning/pruner.py",
        "pruned=parameter_count(small)",
        "pruned=parameter_count(job.dense.model)",
        MANIFEST,
    ),
    of(
        "the config says that what went was kept",
        "model/surgery.py",
        "original[masks[site.name]]",
        "original[~masks[site.name]]",
        MANIFEST,
    ),
    Fault(
        "a wheel without its templates",
        "pyproject.toml",
        'packages = ["src/trimformer"]',
        'packages = ["src/trimformer"]\nexclude = ["src/trimformer/report/templates"]',
        (WHEEL,),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """Which test failed first, None where none did, and how long that took."""

    caught_by: str | None
    seconds: float
    output: str


def copied(folder: Path) -> Path:
    """Copy the files that git knows, and those that it does not ignore, into a folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run_tests(folder: Path, tests: Sequence[str], *, all_of_them: bool = False) -> Outcome:
    """Run some test files of a copy, up to the first failure unless all are asked for."""
    paths = filter(None, (str(folder / "src"), os.environ.get("PYTHONPATH")))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    options = ["-q", "-p", "no:cacheprovider", "--tb=no", *([] if all_of_them else ["-x"])]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    failed = FAILED.search(done.stdout)
    caught_by = failed[1] if failed else None if done.returncode == 0 else f"exit status {done.returncode}"
    return Outcome(caught_by, time.perf_counter() - started, done.stdout + done.stderr)


def planted(folder: Path, fault: Fault) -> Outcome:
    """Change the copy, run the tests that are named, and change it back.

    Raises:
        SystemExit: the text to change is not there exactly once.
    """
    path = folder / fault.file
    before = path.read_text(encoding="utf-8")
    if before.count(fault.old) != 1:
        sys.exit(f"{fault.meaning}: {fault.old!r} is {before.count(fault.old)} times in {fault.file}, not once")
    path.write_text(before.replace(fault.old, fault.new), encoding="utf-8")
    try:
        return run_tests(folder, fault.tests)
    finally:
        path.write_text(before, encoding="utf-8")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Plant all faults; 0 if each is caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default="", metavar="WORD", help="plant faults with this word in their meaning or file"
    )
    word = parser.parse_args().only
    chosen = [fault for fault in FAULTS if word in fault.meaning or word in fault.file]
    with tempfile.TemporaryDirectory() as scratch:
        folder = copied(Path(scratch))
        tests = list(dict.fromkeys(test for fault in chosen for test in fault.tests))
        without = run_tests(folder, tests, all_of_them=True)
        if without.caught_by:
            sys.exit(f"without any fault, {without.caught_by} fails:\n{without.output}")
        say(f"| fault | caught by | seconds |\n|---|---|---|\n| none | – (all tests named) | {without.seconds:.0f} |")
        missed = 0
        for fault in chosen:
            outcome = planted(folder, fault)
            missed += outcome.caught_by is None
            caught_by = f"`{outcome.caught_by}`" if outcome.caught_by else "**not caught**"
            say(f"| {fault.meaning} | {caught_by} | {outcome.seconds:.0f} |")
    say(f"\n{len(chosen) - missed} of {len(chosen)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
