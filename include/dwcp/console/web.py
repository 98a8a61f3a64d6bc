"""What every page of ours in Airflow's web server needs, importable without Airflow: headers, and an app made late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]

HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "same-origin"}
"""Of every answer. Each page adds the ``Content-Security-Policy`` that it can live with."""


class LazyApp:
    """An ASGI app that ``build`` makes when the first request comes.

    Every task process loads plugins and only the web server serves them: FastAPI and all else waits until then.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._app: Any = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Hand the request to the app."""
        if self._app is None:
            self._app = self._build()
        await self._app(scope, receive, send)
