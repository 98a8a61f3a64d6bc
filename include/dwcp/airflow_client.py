"""A small client of Airflow's REST API: trigger a run, wait for it, and read what its tasks did."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import urllib3

API = "/api/v2"
FINISHED = ("success", "failed")


class AirflowError(RuntimeError):
    """Airflow refused or does not answer. ``status`` is the HTTP status, 0 if there was none."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AirflowClient:
    """Speaks to one Airflow web server as one user. Reads and triggers only what its methods name."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url.rstrip("/")
        self._credentials = {"username": username, "password": password}
        self._pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5.0, read=60.0))
        self._token: str | None = None

    def health(self) -> dict[str, str]:
        """The state of each component (``healthy``, ``unhealthy``); empty while the web server is not up."""
        try:
            answer = self._pool.request("GET", f"{self.url}{API}/monitor/health")
            body = answer.json() if answer.status == 200 else {}
        except (urllib3.exceptions.HTTPError, json.JSONDecodeError):
            return {}
        return {name: str(part["status"]) for name, part in body.items() if part and part.get("status")}

    def trigger(
        self,
        dag_id: str,
        conf: Mapping[str, Any] | None = None,
        *,
        logical_date: datetime | None = None,
        run_id: str | None = None,
    ) -> str:
        """Start a run with these params and return its id. A DAG that is paused is unpaused first.

        Raises ``AirflowError`` with status 400 and the reason if a param is not what the DAG's form allows.
        """
        self._call("PATCH", f"/dags/{dag_id}", {"is_paused": False})
        body: dict[str, Any] = {
            "conf": dict(conf or {}),
            "logical_date": logical_date.astimezone(UTC).isoformat() if logical_date else None,
        }
        if run_id:
            body["dag_run_id"] = run_id
        return str(self._call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def wait(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout_s: float = 1_800.0,
        progress: Callable[[dict[str, str]], None] | None = None,
    ) -> str:
        """Wait until the run is over and return its state, ``success`` or ``failed``.

        ``progress`` is called with every task's state whenever one changed. Raises ``AirflowError`` on time-out.
        """
        deadline = time.monotonic() + timeout_s
        seen: dict[str, str] = {}
        while True:
            state = str(self._call("GET", f"{_run_path(dag_id, run_id)}")["state"])
            if progress:
                states = self.task_states(dag_id, run_id)
                if states != seen:
                    progress(states)
                    seen = states
            if state in FINISHED:
                return state
            if time.monotonic() > deadline:
                raise AirflowError(0, f"run {run_id} of {dag_id} is still {state} after {timeout_s:.0f} s")
            time.sleep(0.5)

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """State by task; a mapped task's instances are ``task[0]``, ``task[1]``, …; ``none`` before it is scheduled."""
        states: dict[str, str] = {}
        while True:
            page = self._call("GET", f"{_run_path(dag_id, run_id)}/taskInstances?limit=100&offset={len(states)}")
            for instance in page["task_instances"]:
                index = instance["map_index"]
                name = instance["task_id"] if index < 0 else f"{instance['task_id']}[{index}]"
                states[name] = instance["state"] or "none"
            if not page["task_instances"] or len(states) >= page["total_entries"]:
                return states

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """What the task left under ``key``. Raises ``AirflowError`` with status 404 if it left nothing."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{quote(key, safe='')}"
        return self._call("GET", f"{path}?deserialize=true&map_index={map_index}")["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """The events of the task's log, a line each."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}?map_index={map_index}"
        content = self._call("GET", f"{path}&full_content=true")["content"]
        return "\n".join(_line(entry) for entry in content)

    def link(self, dag_id: str, run_id: str, task_id: str, name: str, map_index: int = -1) -> str | None:
        """Where the task's button ``name`` leads, or None."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/links?map_index={map_index}"
        link: str | None = self._call("GET", path)["extra_links"].get(name)
        return link

    def dag_ids(self) -> list[str]:
        """The DAGs that Airflow has read."""
        return sorted(dag["dag_id"] for dag in self._call("GET", "/dags?limit=100")["dags"])

    def import_errors(self) -> list[str]:
        """What went wrong while Airflow read the DAG files."""
        return [entry["stack_trace"] for entry in self._call("GET", "/importErrors")["import_errors"]]

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Make the pool unless it exists; one that somebody resized is left as it is."""
        try:
            self._call("POST", "/pools", {"name": name, "slots": slots, "description": description})
        except AirflowError as error:
            if error.status != 409:
                raise

    def page(self, path: str, *, signed_in: bool = True) -> tuple[int, str]:
        """Status and text of a page below the web server."""
        headers = {"Authorization": f"Bearer {self._signed_in()}"} if signed_in else {}
        answer = self._request("GET", path, headers=headers, redirect=False)
        return answer.status, answer.data.decode(errors="replace")

    def _signed_in(self) -> str:
        if self._token is None:
            answer = self._request("POST", "/auth/token", json=self._credentials)
            if answer.status not in (200, 201):
                raise AirflowError(answer.status, f"Airflow at {self.url} refused the login ({answer.status})")
            self._token = str(answer.json()["access_token"])
        return self._token

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._signed_in()}"}
        content = {"json": dict(body)} if body is not None else {}
        answer = self._request(method, f"{API}{path}", headers=headers, **content)
        if answer.status >= 400:
            raise AirflowError(answer.status, f"{method} {path}: {answer.status}: {_detail(answer)}")
        return answer.json() if answer.data else {}

    def _request(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(method, f"{self.url}{path}", **options)
        except urllib3.exceptions.HTTPError as error:
            raise AirflowError(0, f"Airflow at {self.url} does not answer: {error}") from error


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def _line(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    beside = {key: value for key, value in entry.items() if key in ("reason", "error_detail", "exc_info")}
    return " ".join([str(entry.get("event", "")), *(f"{key}={value}" for key, value in beside.items())])


def _detail(answer: urllib3.BaseHTTPResponse) -> str:
    try:
        return str(answer.json()["detail"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return answer.data.decode(errors="replace")[:500]
