"""Say how many branches of the package the tests went through, file by file, and fail where that is too few.

`python tests/check_coverage.py`, the end of `make coverage`. Branches alone: coverage's own total counts lines as well,
which are easier to reach. Exits with 1 below `LEAST`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from coverage import Coverage

LEAST = 95.0
"""Per cent of branches."""


def measured() -> Coverage:
    """What was counted, also by processes that outlive the tests, such as those that others are forked from."""
    found = Coverage()
    found.load()
    found.combine()
    found.save()
    return found


def branches(counted: Coverage) -> float:
    """Per cent of branches."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        counted.json_report(outfile=str(file))
        totals = json.loads(file.read_text(encoding="utf-8"))["totals"]
    return 100 * float(totals["covered_branches"]) / float(totals["num_branches"])


def main() -> int:
    """Print what is missing."""
    counted = measured()
    counted.report(file=sys.stdout)
    share = branches(counted)
    sys.stdout.write(f"branches: {share:.2f} % (at least {LEAST:.0f} %)\n")
    return share < LEAST


if __name__ == "__main__":
    sys.exit(main())
