"""``python -m tests.attacks``: every file of the corpus in a child of its own, as the table of docs/attacks.md.

``--write`` writes that file. Ends with status 1 if an outcome is not the expected one, a payload ran, or a child
used more memory than its limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from sane_engine.checkpoint import Checkpoint, Refusal
from sane_engine.intake import load_checkpoints
from sane_engine.intake.limits import DEFAULT_LIMITS, MIB

from .case import Case
from .corpus import Measured, corpus, measure, verdict

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "attacks.md"


def _outcome(path: Path) -> list[Checkpoint] | Refusal:
    try:
        return load_checkpoints(path)
    except Refusal as refusal:
        return refusal


def _fired(cases: Iterable[Case], folder: Path) -> list[str]:
    """The armed cases whose payload runs under unsafe loading, in a process of its own."""
    armed = [case for case in cases if case.armed]
    homes = [folder / f"control-{number}" for number in range(len(armed))]
    paths = [case.write(home) for case, home in zip(armed, homes, strict=True)]
    command = [sys.executable, "-m", "tests.attacks.control", *map(str, paths)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return [case.name for case, home in zip(armed, homes, strict=True) if (home / "it-ran").exists()]


def _text(rows: list[tuple[Case, Measured, str]], fired: list[str], ran: list[str]) -> str:
    armed = sum(case.armed for case, _, _ in rows)
    wrong = [f"{case.name}: {why}" for case, _, why in rows if why]
    groups: dict[str, list[tuple[Case, Measured, str]]] = defaultdict(list)
    for row in rows:
        groups[row[0].group].append(row)
    lines = [
        "# The attack corpus",
        "",
        "Made by `python -m tests.attacks --write`; the same files are tests (`tests/test_attacks.py`). Every file",
        "is read in a child of its own. Seconds hold for one machine, the start of the child included;",
        f"the child's ceiling is {DEFAULT_LIMITS.memory_bytes // MIB:,} MiB of address space.",
        "",
        f"- {len(rows)} files; {sum(bool(case.code) for case, _, _ in rows)} to be refused, "
        f"{sum(not case.code for case, _, _ in rows)} valid, compared bit by bit.",
        f"- Other than expected: {len(wrong)}.{''.join(f' {line}.' for line in wrong)}",
        f"- Payloads that run under unsafe loading (positive control): {len(fired)} of {armed}; here: {len(ran)}.",
        f"- Largest memory of a child: {max(m.peak_bytes for _, m, _ in rows) / MIB:.0f} MiB; "
        f"longest time: {max(m.seconds for _, m, _ in rows):.1f} s; "
        f"ended without an answer: {sum(not m.peak_bytes for _, m, _ in rows)}.",
        "",
        "| group | files | as expected | longest, s | largest peak, MiB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for group, members in groups.items():
        seconds = max(m.seconds for _, m, _ in members)
        peak = max(m.peak_bytes for _, m, _ in members) / MIB
        good = sum(not why for *_, why in members)
        lines.append(f"| {group} | {len(members)} | {good} | {seconds:.1f} | {peak:.0f} |")
    lines += ["", "| file | outcome | s | peak, MiB |", "| --- | --- | ---: | ---: |"]
    for case, found, _ in rows:
        lines.append(f"| {case.name} | {found.outcome} | {found.seconds:.2f} | {found.peak_bytes / MIB:.0f} |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/attacks.md instead of printing")
    arguments = parser.parse_args()
    cases = corpus()
    rows: list[tuple[Case, Measured, str]] = []
    ran: list[str] = []
    with tempfile.TemporaryDirectory(prefix="attacks-") as name:
        folder = Path(name)
        for number, case in enumerate(cases):
            home = folder / str(number)
            path = case.write(home)
            why = verdict(case, _outcome(path))
            rows.append((case, measure(path), why))
            if (home / "it-ran").exists():
                ran.append(case.name)
        fired = _fired(cases, folder)
    text = _text(rows, fired, ran)
    if arguments.write:
        TARGET.write_text(text, encoding="utf-8")
    else:
        print(text)
    over = [case.name for case, found, _ in rows if found.peak_bytes > DEFAULT_LIMITS.memory_bytes]
    silent = [case.name for case in cases if case.armed and case.name not in fired]
    for what, names in (("payload ran", ran), ("beyond its memory", over), ("no positive control", silent)):
        for name in names:
            print(f"{what}: {name}", file=sys.stderr)
    for case, _, why in rows:
        if why:
            print(f"{case.name}: {why}", file=sys.stderr)
    return 1 if ran or over or silent or any(why for *_, why in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
