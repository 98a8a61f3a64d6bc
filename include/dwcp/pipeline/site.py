"""One installation on one machine: its embedded Postgres, its roles' connections, its migrated database."""

from __future__ import annotations

from pydantic import SecretStr

from dwcp.settings import Settings
from dwcp.warehouse import server
from dwcp.warehouse.migrate import migrate

ROLES = ("owner", "loader", "reader", "registry")


def local_settings(settings: Settings | None = None) -> Settings:
    """``settings`` with every missing DSN pointing at the embedded Postgres, started and migrated if it is not yet.

    A setting that names a real server is left alone; its database is the operator's to migrate (``dwcp migrate``).
    """
    settings = settings or Settings()
    missing = [role for role in ROLES if getattr(settings, f"{role}_dsn") is None]
    if not missing:
        return settings
    info = server.ensure_running(settings.home)
    filled = settings.model_copy(update={f"{role}_dsn": SecretStr(info.dsn(f"dwcp_{role}")) for role in missing})
    if "owner" in missing:
        migrate(info.dsn("dwcp_owner"))
    return filled


def dsn(settings: Settings, role: str) -> str:
    """The connection of one role. Raises ``ValueError`` naming the setting that is missing."""
    value: SecretStr | None = getattr(settings, f"{role}_dsn")
    if value is None:
        raise ValueError(f"no Postgres connection for the {role} role: set DWCP_{role.upper()}_DSN")
    return value.get_secret_value()
