"""Fail unless the tests that need redis-server ran, every one of them.

Reads the JUnit report of a pytest run; `tests/conftest.py` marks those tests with a property. That
guards against the guard: a marker that is no longer looked at would let CI pass without the reference.
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree as ET

ENOUGH = 20  # fewer than this, and something has unmarked them


def main(path: str) -> int:
    ran: list[str] = []
    skipped: list[str] = []
    for case in ET.parse(path).iter("testcase"):  # noqa: S314  our own file
        if case.find("properties/property[@name='needs_redis']") is not None:
            (skipped if case.find("skipped") is not None else ran).append(case.get("name", "?"))
    print(f"{len(ran)} tests compared with redis-server, {len(skipped)} were skipped")
    for name in skipped:
        print(f"  skipped: {name}")
    return 1 if skipped or len(ran) < ENOUGH else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
