"""What may be chosen about a backfill beside its window: one list for form, command line and steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwcp.settings import Settings


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """How days are done again. ``source`` and ``oracle`` default to the settings', no ``regions`` means all of them.

    ``retrain``: a weekly run follows; only Airflow starts one.
    """

    source: str | None = None
    regions: tuple[str, ...] = ()
    oracle: str | None = None
    relabel_only: bool = False
    dry_run: bool = True
    retrain: bool = False

    @classmethod
    def among(cls, values: Mapping[str, Any]) -> BackfillOptions:
        """The options among ``values`` (a form's params, a plan); those that are missing keep their default."""
        given = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**{**given, "regions": tuple(given.get("regions") or ())})

    def resolved(self, settings: Settings) -> BackfillOptions:
        """The same with the settings' source and oracle where none was chosen."""
        return replace(self, source=self.source or settings.source, oracle=self.oracle or settings.oracle)
