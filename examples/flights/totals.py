"""Count the flights of every aircraft from the file alone: the check of the demo.

It reads the rows, adds them up and prints one JSON object: a tail number, then its flights,
arrived, cancelled, open and miles. It shares no code with the demo and uses nothing but Python, so
that a mistake there has to be made here a second time to go unseen. Keep it that way.

    python totals.py flights-2013-01.csv.gz
"""

import csv
import gzip
import json
import sys


def totals(path: str) -> dict[str, dict[str, int]]:
    """The totals of each tail number; rows without one are those of `unknown`."""
    opener = gzip.open if path.endswith(".gz") else open
    counted: dict[str, dict[str, int]] = {}
    seen: set[tuple[str, ...]] = set()
    with opener(path, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if tuple(row.values()) in seen:  # the same record twice is one flight
                continue
            seen.add(tuple(row.values()))
            tail = row["tailnum"] if row["tailnum"] not in ("", "NA") else "unknown"
            nothing = {"flights": 0, "arrived": 0, "cancelled": 0, "open": 0, "miles": 0}
            sums = counted.setdefault(tail, nothing)
            sums["flights"] += 1
            if row["dep_time"] in ("", "NA"):
                sums["cancelled"] += 1
            elif row["arr_time"] in ("", "NA"):
                sums["open"] += 1
            else:
                sums["arrived"] += 1
                sums["miles"] += int(row["distance"])
    return counted


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python totals.py FILE")
    json.dump(totals(sys.argv[1]), sys.stdout)
