"""The data dictionary in ``docs/``, written from the contract: nobody edits it by hand, and a test compares it.

``make generate`` writes it anew after the contract changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dwcp import contract
from dwcp.contract import Column, Feature, Role

_HEAD = f"""<!-- Generated from include/dwcp/contract.py by `make generate`. Do not edit. -->
# Data dictionary

Every column of a transfer, from the node that logs it to the table that models are trained on. Bandwidth is megabit/s,
sizes are bytes, times are milliseconds unless the name says otherwise, shares are fractions from 0 to 1. NaN and
infinity are never legal. InfluxDB: bucket `{contract.BUCKET}`, measurement `{contract.MEASUREMENT}`. Postgres: table
`compression_training_data`, where `id` is the table's own.
"""


def render() -> str:
    """The whole document, as Markdown."""
    parts = [
        _HEAD,
        "## The seed's columns\n\nSection 6.1 of the design, in its order.\n",
        _columns([column for column in contract.COLUMNS if column.seed]),
        "## Further columns a node logs\n",
        _columns([column for column in contract.LOGGED if not column.seed]),
        "## Columns that the pipeline adds\n",
        _columns([column for column in contract.COLUMNS if column.role is Role.WAREHOUSE and not column.seed]),
        "## Enums\n",
        _table(("name", "values"), [(name, ", ".join(map(_code, values))) for name, values in _enums()]),
        "## What a measurement fills\n\nAll of an algorithm's columns if it was measured, none of them otherwise.\n",
        _table(
            ("algorithm", "columns"),
            [(_code(a), ", ".join(map(_code, names)) or "none") for a, names in contract.OUTCOMES.items()],
        ),
        "## Plausible bandwidth\n\nA value outside is most often in another unit, and goes to quarantine.\n",
        _table(
            ("link", "least Mbit/s", "most Mbit/s"),
            [(_code(link), _number(a), _number(b)) for link, (a, b) in contract.PLAUSIBLE_BANDWIDTH_MBPS.items()],
        ),
        f"## Features\n\nDefinition `{contract.FEATURE_SET_DIGEST}`. The first {len(contract.SEED_FEATURES)} are "
        "those of section 4.1.1, in its order.\nEach is logged as it was served, in the column named here.\n",
        _features(contract.FEATURES),
    ]
    return "\n".join(parts)


def _columns(columns: Iterable[Column]) -> str:
    return _table(
        ("column", "InfluxDB", "Postgres", "unit", "NULL", "legal", "meaning"),
        [
            (
                _code(column.name),
                {Role.TIME: "time", Role.TAG: "tag", Role.FIELD: f"field, {column.kind}"}.get(column.role, ""),
                column.postgres,
                column.unit,
                "yes" if column.nullable else "",
                _legal(column),
                column.meaning,
            )
            for column in columns
        ],
    )


def _legal(column: Column) -> str:
    if column.values is not None:
        return ", ".join(map(_code, column.values))
    if column.minimum is not None and column.maximum is not None:
        return f"{_number(column.minimum)} to {_number(column.maximum)}"
    return f"1 to {column.max_length} characters" if column.max_length is not None else ""


def _features(features: Iterable[Feature]) -> str:
    return _table(
        ("", "feature", "column", "unit", "range", "cold start", "meaning"),
        [
            (
                str(position),
                _code(feature.name),
                _code(feature.column),
                feature.unit,
                f"{_number(feature.minimum)} to {_number(feature.maximum)}",
                _number(feature.default),
                feature.meaning + (f": 0 unknown, {_codes(feature.codes)}" if feature.codes else ""),
            )
            for position, feature in enumerate(features, 1)
        ],
    )


def _codes(values: tuple[str, ...]) -> str:
    return ", ".join(f"{code} {value}" for code, value in enumerate(values, 1))


def _enums() -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("candidates, the models' class order", contract.CANDIDATES),
        ("algorithms, the baseline last", contract.ALGORITHMS),
        ("link types", contract.LINK_TYPES),
        ("data types", contract.DATA_TYPES),
        ("regions with a code", contract.REGIONS),
        ("rollout arms", contract.ARMS),
        ("reasons", contract.REASONS),
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`"


def _number(value: float) -> str:
    """Powers of two, which bound sizes, as such; everything else in plain digits where these are few."""
    exponent = int(value).bit_length() - 1
    if value == 2.0**exponent and exponent >= 20:
        return f"2^{exponent}"
    return f"{value:,.12g}" if value == 0 or value >= 1e-4 else f"{value:g}"
