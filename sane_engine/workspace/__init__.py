"""Where files lie, and how they are written: whole or not at all, and within the room there is."""

from __future__ import annotations

from sane_engine.workspace.atomic import atomic_file as atomic_file
from sane_engine.workspace.atomic import atomic_folder as atomic_folder
from sane_engine.workspace.atomic import discard as discard
from sane_engine.workspace.atomic import remove as remove
from sane_engine.workspace.atomic import sync as sync
from sane_engine.workspace.atomic import unfinished_folder as unfinished_folder
from sane_engine.workspace.names import first_free as first_free
from sane_engine.workspace.names import plain_name as plain_name
from sane_engine.workspace.places import ASSETS_VARIABLE as ASSETS_VARIABLE
from sane_engine.workspace.places import ENVIRONMENT_VARIABLE as ENVIRONMENT_VARIABLE
from sane_engine.workspace.places import assets_root as assets_root
from sane_engine.workspace.places import open_root as open_root
from sane_engine.workspace.places import visible as visible
from sane_engine.workspace.places import workspace_root as workspace_root
from sane_engine.workspace.quota import QUOTA_VARIABLE as QUOTA_VARIABLE
from sane_engine.workspace.quota import disk_full as disk_full
from sane_engine.workspace.quota import quota_bytes as quota_bytes
from sane_engine.workspace.quota import require_room as require_room
from sane_engine.workspace.quota import size_of as size_of
from sane_engine.workspace.quota import used_bytes as used_bytes
from sane_engine.workspace.sweeping import strays as strays
from sane_engine.workspace.sweeping import sweep as sweep

__all__ = [
    "ASSETS_VARIABLE", "ENVIRONMENT_VARIABLE", "QUOTA_VARIABLE", "assets_root", "atomic_file", "atomic_folder",
    "discard", "disk_full", "first_free", "open_root", "plain_name", "quota_bytes", "remove", "require_room",
    "size_of", "strays", "sweep", "sync", "unfinished_folder", "used_bytes", "visible", "workspace_root",
]  # fmt: skip
