"""The rules of the house, each as a test that fails when it is broken."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sane_engine

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "sane_engine"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
SOURCES = sorted([*ENGINE.rglob("*.py"), *(ROOT / "pages").rglob("*.py"), ROOT / "app.py"])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


def test_engine_names_streamlit_nowhere() -> None:
    guilty = [
        path.relative_to(ROOT)
        for path in ENGINE.rglob("*.py")
        if any(name.split(".")[0] in {"streamlit", "pages"} for name in imported_modules(path))
    ]
    assert not guilty


def test_engine_works_where_streamlit_is_not_installed() -> None:
    modules = [
        info.name
        for info in pkgutil.walk_packages([str(ENGINE)], prefix="sane_engine.")
        if not info.name.endswith("__main__")
    ]
    code = (
        f"import sys, importlib; sys.modules['streamlit'] = None\n"
        f"for name in {modules}: importlib.import_module(name)"
    )
    outcome = run("-c", code)
    assert outcome.returncode == 0, outcome.stderr


def test_what_the_first_picture_needs_loads_no_torch() -> None:
    code = (
        "import sys, sane_engine.zoo, sane_engine.demo, sane_engine.projection\n"
        "import sane_engine.baselines, sane_engine.sane, sane_engine.symmetry\n"
        "from sane_engine import load_zoo\n"
        "assert len(load_zoo('digits').table) > 1000\n"
        "heavy = {'torch', 'umap', 'sklearn', 'weightwatcher', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    outcome = run("-c", code)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize("name", sane_engine.__all__)
def test_every_public_name_exists_and_is_described(name: str) -> None:
    public = getattr(sane_engine, name)
    assert public.__doc__, f"{name} has no docstring"
    assert public.__module__.startswith("sane_engine.")


def test_engine_listing_matches_its_type_imports() -> None:
    tree = ast.parse((ENGINE / "__init__.py").read_text(encoding="utf-8"))
    typed = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(sane_engine.__all__) == typed - {None}


@pytest.mark.parametrize("command", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)])
def test_checks_are_clean(command: tuple[str, ...]) -> None:
    outcome = run("-m", *command)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_no_room_holds_more_than_one_idea() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in SOURCES
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long
    assert not [path for path in ROOT.rglob("utils.py") if ".venv" not in path.parts]


def test_dangerous_calls_are_nowhere() -> None:
    pattern = re.compile(
        r"weights_only\s*=\s*False|jit\.load|extractall\(|pickle\.loads?\(|shell\s*=\s*True|yaml\.load\("
        r"|unsafe_allow_(html|javascript)\s*=\s*True"
    )
    guilty = [path.relative_to(ROOT) for path in SOURCES if pattern.search(path.read_text(encoding="utf-8"))]
    assert not guilty


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_documented(page: str) -> None:
    assert re.search(rf"\*\*{page.capitalize()}\*\*", README), f"the README says nothing of the page {page}"


def test_every_command_and_flag_is_documented() -> None:
    parser = importlib.import_module("sane_engine.__main__").build_parser()
    commands = next(action for action in parser._actions if action.dest == "command").choices
    reference = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    for name, command in commands.items():
        section = re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", reference, re.M | re.S)
        assert section, f"docs/command-line.md has no section for {name}"
        for action in command._actions:
            for flag in action.option_strings:
                if flag.startswith("--") and flag != "--help":
                    assert f"`{flag}" in section.group(1), f"{name} {flag} is not documented"


def test_every_room_is_on_the_map() -> None:
    rooms = {path.name for path in ENGINE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    missing = {room for room in rooms - {"__init__.py", "py.typed"} if f"`{room}" not in CONTRIBUTING}
    assert not missing


def test_every_ignored_warning_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    filters = tomllib.loads(text)["tool"]["pytest"]["ini_options"]["filterwarnings"]
    assert filters[0] == "error"
    lines = text.splitlines()
    for entry in filters[1:]:
        position = next(i for i, line in enumerate(lines) if entry.replace("\\", "\\\\") in line or entry in line)
        assert "#" in lines[position] or lines[position - 1].lstrip().startswith("#"), f"no reason beside {entry!r}"


def test_assets_are_small_and_say_where_they_come_from() -> None:
    assets = ROOT / "assets"
    files = [path for path in assets.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25 * 1024**2
    assert {path.suffix for path in files} <= {".safetensors", ".parquet", ".json", ".svg", ".png"}
    for folder in {path.parent for path in files if path.suffix in {".safetensors", ".parquet"}}:
        records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        assert any("command" in json.dumps(record) for record in records), f"{folder} has no provenance"
