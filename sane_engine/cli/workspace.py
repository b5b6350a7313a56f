"""``workspace``: what lies in the workspace, and how it gets out, in, and away."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from sane_engine.cli.console import Console
from sane_engine.workspace import quota_bytes, used_bytes, workspace_root


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "workspace",
        help="see and clear up what was made and kept",
        description="List the items of the workspace, the largest first; or remove, export or import one."
        " ITEM is KIND/NAME as in the list.",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--remove", metavar="ITEM", help="remove an item and its files")
    action.add_argument("--export", metavar="ITEM", help="write a zoo, encoder, embeddings or samples as one zip")
    action.add_argument("--import", metavar="FILE", type=Path, dest="source", help="take in such a zip")
    action.add_argument(
        "--rebuild",
        action="store_true",
        help="make the index again from the files, and remove what interrupted writes left",
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="where --export writes (default: KIND-NAME.zip here)"
    )
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do what was asked, then say what is there."""
    from sane_engine.inventory import Item, export_item, import_item, items, rebuild, remove_item

    def row(item: Item) -> dict[str, Any]:
        return {
            "item": item.key,
            "label": item.label,
            "digest": item.digest,
            "bytes": item.bytes,
            "created": item.created,
            "used": item.used,
        }

    if arguments.export is not None:
        out = arguments.out or Path(f"{arguments.export.replace('/', '-')}.zip")
        item = export_item(arguments.export, out, progress=console.progress, cancelled=console.cancelled)
        console.emit({**row(item), "file": str(out), "file_bytes": out.stat().st_size})
        return 0
    if arguments.source is not None:
        item = import_item(arguments.source, progress=console.progress, cancelled=console.cancelled)
        console.emit(row(item))
        return 0
    if arguments.remove is not None:
        remove_item(arguments.remove)
    found = rebuild() if arguments.rebuild else items()
    root = workspace_root()
    console.emit(
        {
            "workspace": str(root),
            "bytes": used_bytes(fresh=True),
            "quota_bytes": quota_bytes(),
            "free_bytes": shutil.disk_usage(root).free if root.exists() else None,
            "items": [row(item) for item in found],
        }
    )
    return 0
