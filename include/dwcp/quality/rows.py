"""A batch seen by rules: columns as numpy arrays, and which cells are sound enough to be compared with others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import BY_NAME

Mask = NDArray[np.bool_]
Explain = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that some rows break. ``explain(row)`` is the reason in words: ``<column> <rule>: <detail>``."""

    broken: Mask
    explain: Explain


@dataclass(slots=True)
class Rows:
    """One batch in ``LOGGED_SCHEMA``. Rules on several columns look only at rows whose cells are ``sound``."""

    batch: pa.RecordBatch
    _present: dict[str, Mask] = field(default_factory=dict)
    _numbers: dict[str, NDArray[np.float64 | np.int64]] = field(default_factory=dict)
    _sound: dict[str, Mask] = field(default_factory=dict)

    def array(self, name: str) -> pa.Array:
        """The column as Arrow holds it."""
        return self.batch.column(name)

    def present(self, name: str) -> Mask:
        """True where the cell is not NULL."""
        if name not in self._present:
            self._present[name] = self.array(name).is_valid().to_numpy(zero_copy_only=False)
        return self._present[name]

    def numbers(self, name: str) -> NDArray[np.float64 | np.int64]:
        """The numeric column as float64 or int64, NULL as 0. Integers stay exact."""
        if name not in self._numbers:
            array = self.array(name)
            if array.null_count:
                array = pc.fill_null(array, pa.scalar(0, array.type))
            self._numbers[name] = array.to_numpy(zero_copy_only=False)
        return self._numbers[name]

    def equals(self, name: str, value: str) -> Mask:
        """True where the text column holds ``value``; NULL is unequal."""
        return as_mask(pc.equal(self.array(name), value))

    def sound(self, *names: str) -> Mask:
        """True where all the named cells are present and break no rule of their own column."""
        mask = np.ones(self.batch.num_rows, dtype=np.bool_)
        for name in names:
            mask &= self._sound[name]
        return mask

    def mark_sound(self, name: str, mask: Mask) -> None:
        """Record which cells of a column passed its own rules."""
        self._sound[name] = mask

    def show(self, name: str, row: int) -> str:
        """One cell for a reader, with its unit. Never holds the ``; `` that parts reasons."""
        return with_unit(self.array(name)[row].as_py(), BY_NAME[name].unit)


def as_mask(array: pa.Array) -> Mask:
    """An Arrow boolean array as numpy, NULL as False."""
    mask: Mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return mask


def with_unit(value: object, unit: str) -> str:
    """A value for a reader, with the contract's unit where that is one; long texts are cut."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else f"{value[:57]}..."
        return repr(shown).replace(";", ",")
    if isinstance(value, float):
        value = f"{float(f'{value:.6g}'):.15g}"
    return f"{value}" if unit in ("", "count", "fraction", "ratio", "code") else f"{value} {unit}"
