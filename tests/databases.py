"""The three databases, each as an alias of Django's with tables of the suite's own that are dropped at the end."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections
from django.db.utils import Error

from tests.servers import missing, needed

ENVIRONMENT = "TEST_DATABASES"
"""Where a child process finds the aliases of its parent."""

POSTGRESQL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
MARIADB = os.environ.get("TEST_MARIADB_URL", "mysql://root@127.0.0.1:3306/mysql")
WAL = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"


def setup() -> None:
    """Have Django without settings of a project, unless a project has set it up; and the parent's aliases."""
    if not settings.configured and "DJANGO_SETTINGS_MODULE" not in os.environ:
        settings.configure(INSTALLED_APPS=["ratelimit_core.django"], DATABASES={}, USE_TZ=True)
    django.setup()
    _pymysql()
    for alias, options in json.loads(os.environ.get(ENVIRONMENT, "{}")).items():
        _add(alias, options)


def child_environ(*aliases: str) -> dict[str, str]:
    """With this, a child that calls :func:`setup` has these aliases too."""
    return {ENVIRONMENT: json.dumps({alias: _given[alias] for alias in aliases})}


@contextmanager
def sqlite(path: Path, alias: str = "", **options: Any) -> Iterator[str]:
    """A file in the directory ``path``, in WAL mode; its alias."""
    alias = alias or f"sqlite-{path.name}"
    options = {"transaction_mode": None, "init_command": WAL, "timeout": 20, **options}
    with _migrated(
        alias, {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path / f"{alias}.db"), "OPTIONS": options}
    ):
        yield alias


@contextmanager
def postgresql(alias: str = "postgresql", **options: Any) -> Iterator[str]:
    """A database of its own on the machine's PostgreSQL; its alias."""
    with _on_server(alias, "postgresql", POSTGRESQL, options):
        yield alias


@contextmanager
def mariadb(alias: str = "mariadb", **options: Any) -> Iterator[str]:
    """A database of its own on the machine's MariaDB; its alias."""
    with _on_server(alias, "mysql", MARIADB, options):
        yield alias


@contextmanager
def twin(alias: str, **options: Any) -> Iterator[str]:
    """Another alias of the same database, with connections of its own."""
    name = f"{alias}-twin"
    _add(name, _given[alias] | {"OPTIONS": _given[alias]["OPTIONS"] | options})
    try:
        yield name
    finally:
        _remove(name)


@contextmanager
def alias(name: str, engine: str, port: int) -> Iterator[str]:
    """An alias of whatever answers at that port."""
    server = {"ENGINE": f"django.db.backends.{engine}", "NAME": "any", "USER": "any", "HOST": "127.0.0.1", "PORT": port}
    _add(name, server)
    try:
        yield name
    finally:
        _remove(name)


@contextmanager
def unmigrated(alias: str) -> Iterator[str]:
    """An alias of the same kind of database without our tables."""
    name = f"{alias}-unmigrated"
    _add(name, _given.get(f"{alias}-admin") or _given[alias] | {"NAME": "file::memory:"})
    try:
        yield name
    finally:
        _remove(name)


@contextmanager
def migrated(alias: str, engine: str, url: str) -> Iterator[str]:
    """The very database at ``url``, with our tables, which stay; its alias."""
    with _migrated(alias, _at(engine, url)):
        yield alias


def _at(engine: str, url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": parts.path.strip("/"),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
    }


@contextmanager
def _on_server(alias: str, engine: str, url: str, options: dict[str, Any]) -> Iterator[None]:
    needed()
    setup()
    server = _at(engine, url)
    # Other runs, here, in containers with numbers of their own, and those that were killed, have databases there too.
    admin, name = f"{alias}-admin", f"test_{alias.replace('-', '_')}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    try:
        _add(admin, server)
        connections[admin].ensure_connection()
    except (Error, ImportError, ImproperlyConfigured) as error:
        missing(f"no {alias} at {server['HOST']}:{server['PORT']}: {error}")
    quoted = connections[admin].ops.quote_name(name)
    with connections[admin].cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {quoted}")
        try:
            with _migrated(alias, {**server, "NAME": name, "OPTIONS": options}):
                yield
        finally:
            cursor.execute(f"DROP DATABASE {quoted}" + (" WITH (FORCE)" if engine == "postgresql" else ""))
    _remove(admin)


@contextmanager
def _migrated(alias: str, options: dict[str, Any]) -> Iterator[None]:
    setup()
    _add(alias, options)
    call_command("migrate", "ratelimit_core", database=alias, verbosity=0, skip_checks=True)
    try:
        yield
    finally:
        _remove(alias)


_given: dict[str, dict[str, Any]] = {}


def _add(alias: str, options: dict[str, Any]) -> None:
    _given[alias] = options
    known = {name: dict(database) for name, database in connections.settings.items()}
    known[alias] = {"CONN_MAX_AGE": None, **options}
    connections.settings = connections.configure_settings(known)


def _remove(alias: str) -> None:
    connections[alias].close()
    del connections[alias]
    del connections.settings[alias]
    del _given[alias]


def _pymysql() -> None:
    """MariaDB's driver in Python: needs no headers to install."""
    try:
        import pymysql
    except ImportError:
        return  # mysqlclient may be there
    pymysql.install_as_MySQLdb()
