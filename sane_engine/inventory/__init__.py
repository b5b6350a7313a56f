"""What lies in the workspace: how large it is, when it was last used, and how it gets out, in, and away."""

from __future__ import annotations

from sane_engine.inventory.items import KINDS as KINDS
from sane_engine.inventory.items import Item as Item
from sane_engine.inventory.items import Kind as Kind
from sane_engine.inventory.items import find_item as find_item
from sane_engine.inventory.items import items as items
from sane_engine.inventory.items import mark_used as mark_used
from sane_engine.inventory.items import rebuild as rebuild
from sane_engine.inventory.items import remove_item as remove_item
from sane_engine.inventory.taking_in import import_item as import_item
from sane_engine.inventory.taking_out import EXPORTABLE as EXPORTABLE
from sane_engine.inventory.taking_out import export_item as export_item

__all__ = [
    "EXPORTABLE", "KINDS", "Item", "Kind", "export_item", "find_item", "import_item", "items", "mark_used",
    "rebuild", "remove_item",
]  # fmt: skip
