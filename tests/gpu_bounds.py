"""Bounds on what GPU kernels may cost, and what breaks them: ``gpu_bounds.json`` is the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TABLE: list[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())


def _applies(bound: dict[str, Any], row: dict[str, Any]) -> bool:
    limited = {**bound.get("at_most", {}), **bound.get("at_least", {})}
    known = all(row.get(name) is not None for name in limited)
    return known and all(row.get(name) in values for name, values in bound["where"].items())


def violations(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each figure in the rows of a report that breaks a bound."""
    lines = []
    for row in rows:
        for bound in TABLE:
            if not _applies(bound, row):
                continue
            lines += [
                f"{row['key']}: {name} is {row[name]}, at most {limit} is allowed"
                for name, limit in bound.get("at_most", {}).items()
                if row[name] > limit
            ]
            lines += [
                f"{row['key']}: {name} is {row[name]}, at least {limit} is wanted"
                for name, limit in bound.get("at_least", {}).items()
                if row[name] < limit
            ]
    return lines


def unused(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bounds that no row meets, among those on figures that the rows have."""
    figures = {name for row in rows for name in row}
    return [
        bound
        for bound in TABLE
        if {*bound.get("at_most", {}), *bound.get("at_least", {})} <= figures
        and not any(_applies(bound, row) for row in rows)
    ]
