"""A SQLite file that remembers what measuring the workspace would cost time to find out again.

It is never the truth: the files are. Whatever is wrong with it (missing, damaged, locked, of another version, no
disk) makes the list slower and forgets when things were last used, and nothing else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from sane_engine.workspace import workspace_root

FILE = "index.sqlite3"
_VERSION = 1
_PATIENCE = 2.0
_TABLE = """
CREATE TABLE IF NOT EXISTS items (
    kind TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, bytes INTEGER NOT NULL,
    created REAL NOT NULL, used REAL NOT NULL, stamp TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID
"""
_READ = "SELECT kind, name, digest, bytes, created, used, stamp FROM items"
_WRITE = """
INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, name) DO UPDATE SET
digest = excluded.digest, bytes = excluded.bytes, created = excluded.created, stamp = excluded.stamp,
used = max(used, excluded.used)
"""

Key = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """One item as the index has it; ``stamp`` says of which state of its files."""

    digest: str
    bytes: int
    created: float
    used: float
    stamp: str


@contextmanager
def _opened() -> Iterator[sqlite3.Connection]:
    root = workspace_root()
    root.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(root / FILE, timeout=_PATIENCE, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DROP TABLE IF EXISTS items")
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        yield connection


@contextmanager
def _dispensable() -> Iterator[None]:
    """Pass over every failure of the index; a damaged one is thrown away."""
    try:
        yield
    except sqlite3.OperationalError:
        pass  # locked, read-only, no disk: it may be fine for others
    except sqlite3.DatabaseError:
        forget()
    except (OSError, TypeError, ValueError):
        pass


def forget() -> None:
    """Throw the index away."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            (workspace_root() / f"{FILE}{suffix}").unlink()


def read() -> dict[Key, Row]:
    """Everything it remembers; nothing where it cannot be read."""
    found: dict[Key, Row] = {}
    with _dispensable(), _opened() as connection:
        for kind, name, digest, size, created, used, stamp in connection.execute(_READ):
            found[str(kind), str(name)] = Row(str(digest), int(size), float(created), float(used), str(stamp))
    return found


def write(rows: Mapping[Key, Row], gone: Iterable[Key] = ()) -> None:
    """Remember some items and forget others; a later ``used`` that is there already stays."""
    gone = list(gone)
    if not rows and not gone:
        return
    with _dispensable(), _opened() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM items WHERE kind = ? AND name = ?", gone)
        connection.executemany(
            _WRITE, [(*key, row.digest, row.bytes, row.created, row.used, row.stamp) for key, row in rows.items()]
        )
        connection.execute("COMMIT")


def mark(key: Key, now: float) -> None:
    """Remember that an item was used; one that is not known yet stays unknown."""
    with _dispensable(), _opened() as connection:
        connection.execute("UPDATE items SET used = max(used, ?) WHERE kind = ? AND name = ?", (now, *key))
