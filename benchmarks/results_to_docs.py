"""Puts the measured table into the README and the docs.

    python benchmarks/results_to_docs.py

Takes `benchmarks/results/accuracy.md`, which `benchmarks/accuracy.py` writes, and replaces what is between the markers
`<!-- results:begin -->` and `<!-- results:end -->` in each file of `TARGETS`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks" / "results" / "accuracy.md"
TARGETS = (ROOT / "README.md", ROOT / "docs" / "methods.md")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def main() -> None:
    """Write all targets, or none where one of them has no place for the table."""
    if not TABLE.is_file():
        sys.exit(f"{TABLE.relative_to(ROOT)} is missing: make it with python benchmarks/accuracy.py")
    table = TABLE.read_text(encoding="utf-8").strip()
    if not table:
        sys.exit(f"{TABLE.relative_to(ROOT)} is empty: make it anew with python benchmarks/accuracy.py")
    try:
        pages = {target: between_markers(target.read_text(encoding="utf-8"), table) for target in TARGETS}
    except (OSError, ValueError) as error:
        sys.exit(f"nothing was written: {error}")
    for target, page in pages.items():
        target.write_text(page, encoding="utf-8")
        print(f"wrote {len(table.splitlines())} lines of {TABLE.relative_to(ROOT)} into {target.relative_to(ROOT)}")


def between_markers(page: str, table: str) -> str:
    """The page with the table, and nothing else, between its two markers.

    Raises:
        ValueError: a marker is missing, is there twice, or they are in the wrong order.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or page.count(BEGIN) > 1 or page.count(END) > 1:
        first_line = page.partition("\n")[0]
        raise ValueError(f"the page {first_line!r} needs {BEGIN} and, below it, {END}, once each")
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


if __name__ == "__main__":
    main()
