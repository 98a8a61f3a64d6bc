#!/bin/sh
# Run by the Postgres image on its first start: the four roles, their passwords from the environment, and the database.
set -eu
here=$(dirname "$0")
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -f "${DWCP_ROLES_SQL:-$here/roles.sql}"
# psql reads the passwords itself: its arguments are for every user of the host to see. One unset ends the script here.
: "$DWCP_OWNER_PASSWORD" "$DWCP_LOADER_PASSWORD" "$DWCP_READER_PASSWORD" "$DWCP_REGISTRY_PASSWORD"
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres <<'SQL'
\getenv owner DWCP_OWNER_PASSWORD
\getenv loader DWCP_LOADER_PASSWORD
\getenv reader DWCP_READER_PASSWORD
\getenv registry DWCP_REGISTRY_PASSWORD
SET log_min_error_statement = panic; -- a failing statement must not put a password into the log
ALTER ROLE dwcp_owner PASSWORD :'owner';
ALTER ROLE dwcp_loader PASSWORD :'loader';
ALTER ROLE dwcp_reader PASSWORD :'reader';
ALTER ROLE dwcp_registry PASSWORD :'registry';
CREATE DATABASE dwcp OWNER dwcp_owner TEMPLATE template0;
REVOKE ALL ON DATABASE dwcp FROM PUBLIC;
GRANT CONNECT ON DATABASE dwcp TO dwcp_owner, dwcp_loader, dwcp_reader, dwcp_registry;
GRANT TEMPORARY ON DATABASE dwcp TO dwcp_loader;
SQL
