"""The steps of the weekly run and of a backfill, as plain functions.

Each takes ``settings`` first and small keyword arguments, does one step against Postgres and the artifact store, and
returns a small JSON-able dictionary of counts and references. Airflow tasks, the command line and tests call the same
functions. Every step may run twice, or twice at once, and leaves the same state.
"""


class QualityGateFailed(RuntimeError):
    """An expectation marked *fail* did not hold: the window stays unvalidated and the run is red.

    ``report`` is the page that shows the failing rows, below ``settings.reports_dir``.
    """

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


class ReconcileFailed(RuntimeError):
    """Rows went missing between the source and the warehouse."""
