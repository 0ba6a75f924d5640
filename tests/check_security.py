"""Look for what is unsafe: code (bandit), secrets (detect-secrets), advisories about dependencies (pip-audit).

`python tests/check_security.py`, part of `make check`. Exits with 1 if anything is found. Where no source of advisories
can be reached, that is said, and nothing fails for it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCANNED = ("src", "tests", "docs", ".ci", "Makefile", "README.md", "CONTRIBUTING.md", "pyproject.toml")
"""What is looked through for secrets; a line that only looks like one says `pragma: allowlist secret`."""
DIGESTS = r"tests/stored/.*\.json"
"""Files whose long hexadecimal numbers are checksums."""
SECONDS = 120


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this Python in the repository."""
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def unsafe_code() -> list[str]:
    """What bandit finds in the package, by the rules in pyproject.toml."""
    ended = run("bandit", "-q", "-c", "pyproject.toml", "-r", "src", "-f", "json")
    found = json.loads(ended.stdout)
    return [
        f"{each['filename']}:{each['line_number']}: {each['test_id']} {each['issue_text']}" for each in found["results"]
    ]


def secrets() -> list[str]:
    """What looks like a password, a token or a key."""
    found = json.loads(run("detect_secrets", "scan", "--all-files", "--exclude-files", DIGESTS, *SCANNED).stdout)[
        "results"
    ]
    return [f"{file}:{each['line_number']}: {each['type']}" for file, entries in found.items() for each in entries]


def advisories() -> list[str]:
    """What is known against the dependencies in constraints.txt; says so where no advisory source can be reached."""
    try:
        ended = run(
            "pip_audit", "-r", "constraints.txt", "--no-deps", "--disable-pip", "-f", "json", "--progress-spinner=off"
        )
        known = json.loads(ended.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError) as error:
        print(f"advisories: skipped, their source cannot be reached ({type(error).__name__})")
        return []
    if not any("vulns" in each for each in known):
        print("advisories: skipped, the index that is reached here knows none of the packages")
        return []
    return [f"{each['name']} {each['version']}: {one['id']}" for each in known for one in each.get("vulns", [])]


def main() -> None:
    """Run all three and print what they find."""
    found = {"unsafe code": unsafe_code(), "secrets": secrets(), "advisories": advisories()}
    for what, lines in found.items():
        print("".join(f"{what}: {line}\n" for line in lines), end="")
    sys.exit(any(found.values()))


if __name__ == "__main__":
    main()
