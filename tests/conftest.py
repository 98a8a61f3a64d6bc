"""Shared fixtures live in one module a server, so that a test file names what it needs."""

pytest_plugins = ["fixtures_postgres", "fixtures_influx", "fixtures_airflow", "fixtures_browser", "fixtures_webhook"]
