"""The engine from the command line: the same functions as everywhere, JSON out. Torch-free to import."""

from __future__ import annotations

from sane_engine.cli.parser import build_parser as build_parser
from sane_engine.cli.parser import main as main

__all__ = ["build_parser", "main"]
