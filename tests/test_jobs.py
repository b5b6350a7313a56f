"""Jobs run beside their starter, say how far they are, can be stopped, and survive what kills their starter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from sane_engine import jobs
from sane_engine.checkpoint import Refusal
from sane_engine.jobs import OWN_FOLDER, Job
from sane_engine.jobs.job import CHILD, END, RUNNER, living
from sane_engine.progress_log import append, latest

LONG = {"name": "long", "n_models": 64, "epochs": 400, "checkpoint_epochs": [400], "dataset": "digits"}


def wait(name: str, until: Callable[[Job], bool], seconds: float = 120.0) -> Job:
    patience = time.monotonic() + seconds
    while time.monotonic() < patience:
        job = jobs.find_job(name)
        if until(job):
            return job
        time.sleep(0.05)
    raise AssertionError(f"{job.state} {job.report} {job.log()}")


def ended(job: Job) -> bool:
    return job.state in jobs.ENDED


def long_job() -> Job:
    """A training that would take minutes."""
    arguments = ["train-zoo", "--spec", f"{OWN_FOLDER}/spec.json", "--out", f"{OWN_FOLDER}/zoo"]
    arguments += ["--folder", f"{OWN_FOLDER}/state"]
    return jobs.submit(arguments, "A long training", files={"spec.json": json.dumps(LONG)})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_file({"weight": torch.ones(3, 2)}, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> object:
    yield
    for job in jobs.jobs():
        for name in (RUNNER, CHILD):
            if (process := living(job.folder / name)) is not None:
                process.kill()


def test_a_job_ends_with_the_commands_answer(checkpoint: Path) -> None:
    job = jobs.submit(["inspect", str(checkpoint)], "Look into a file")
    assert job.state in {"running", "done"}
    job = wait(job.id, ended)
    assert (job.state, job.outcome, job.share) == ("done", "", 1.0)
    result = job.result()
    assert result is not None and "weight" in json.dumps(result)
    assert job.ended is not None and job.started is not None and job.ended >= job.started


def test_a_refusal_is_the_outcome_in_one_line(tmp_path: Path) -> None:
    job = wait(jobs.submit(["inspect", str(tmp_path / "nothing.pt")], "Look").id, ended)
    assert job.state == "failed"
    assert "nothing.pt" in job.outcome and "\n" not in job.outcome
    assert job.result() is None


def test_more_jobs_than_may_run_wait_in_the_order_they_came(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANE_PARALLEL_JOBS", "1")
    first = long_job()
    second, third = (jobs.submit(["inspect", str(checkpoint)], title) for title in ("second", "third"))
    assert [jobs.find_job(job.id).state for job in (first, second, third)] == ["running", "queued", "queued"]
    assert [job.title for job in jobs.jobs()] == ["third", "second", "A long training"]
    jobs.cancel(third.id)
    assert jobs.find_job(third.id).state == "cancelled"
    jobs.cancel(first.id)
    # Nobody looks at the queue but the runner that ends: it starts the next one.
    patience = time.monotonic() + 60
    while not (second.folder / END).exists() and time.monotonic() < patience:
        time.sleep(0.1)
    assert jobs.find_job(second.id).state == "done"
    assert jobs.find_job(third.id).started is None


def test_cancel_ends_a_training_within_two_seconds_and_again_goes_on() -> None:
    job = wait(long_job().id, lambda job: job.report is not None and job.report.done > 0)
    asked = time.monotonic()
    jobs.cancel(job.id)
    assert jobs.find_job(job.id).state in {"cancelling", "cancelled"}
    child, runner = living(job.folder / CHILD), living(job.folder / RUNNER)
    family = [each for process in (child, runner) if process for each in (process, *process.children(True))]
    job = wait(job.id, ended, 10)
    # The promise is two seconds; the machine that runs this test may be loaded threefold.
    assert job.state == "cancelled" and time.monotonic() - asked < 6
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    with pytest.raises(Refusal, match="no job"):
        jobs.again("20200101-000000-00000000")
    jobs.again(job.id)
    job = wait(job.id, lambda job: job.state == "running")
    with pytest.raises(Refusal, match="has not ended"):
        jobs.remove(job.id)
    jobs.cancel(job.id)
    wait(job.id, ended, 10)
    jobs.remove(job.id)
    assert jobs.jobs() == []


def test_a_killed_runner_is_seen_and_its_command_does_not_live_on() -> None:
    job = wait(long_job().id, lambda job: living(job.folder / CHILD) is not None)
    runner, child = living(job.folder / RUNNER), living(job.folder / CHILD)
    assert runner is not None and child is not None
    runner.kill()
    job = wait(job.id, ended, 10)
    assert job.state == "failed" and "without a word" in job.outcome
    jobs.remove(job.id)
    child.wait(10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_job_outlives_the_process_that_submitted_it(workspace: Path) -> None:
    code = (
        "from sane_engine import jobs\n"
        f"print(jobs.submit(['train-zoo', '--spec', '{{job}}/s.json', '--out', '{{job}}/zoo'], 'x',"
        f" files={{'s.json': {json.dumps(json.dumps(LONG))}}}).id, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    job = wait(outcome.stdout.strip(), lambda job: job.state == "running")
    wait(job.id, lambda job: job.report is not None)
    jobs.cancel(job.id)
    assert wait(job.id, ended, 10).state == "cancelled"


def test_a_job_lets_everything_else_go_first() -> None:
    job = wait(long_job().id, lambda job: living(job.folder / CHILD) is not None)
    command, runner = living(job.folder / CHILD), living(job.folder / RUNNER)
    assert command is not None and runner is not None
    patience = time.monotonic() + 30
    while command.nice() < 10 and time.monotonic() < patience:
        time.sleep(0.02)
    assert command.nice() >= 10
    group = Path(f"/proc/{command.pid}/autogroup")
    # Where the kernel shares out the processor by session, the session is nice too.
    assert not group.exists() or int(group.read_text().split()[-1]) >= 10
    # The runner is not: on a busy machine it would hear the wish to cancel seconds later.
    assert runner.nice() == psutil.Process().nice() and os.getsid(command.pid) != os.getsid(runner.pid)
    jobs.cancel(job.id)


def test_a_reused_pid_is_not_taken_for_the_job(checkpoint: Path) -> None:
    job = wait(jobs.submit(["inspect", str(checkpoint)], "Look").id, ended)
    (job.folder / "ended.json").unlink()
    started = psutil.Process().create_time()
    (job.folder / RUNNER).write_text(json.dumps({"pid": os.getpid(), "started": started}))
    assert jobs.find_job(job.id).state == "running"
    (job.folder / RUNNER).write_text(json.dumps({"pid": os.getpid(), "started": started - 60}))
    assert jobs.find_job(job.id).state == "failed"


def test_two_runners_of_one_job_are_one_too_many(checkpoint: Path) -> None:
    job = wait(jobs.submit(["inspect", str(checkpoint)], "Look").id, ended)
    before = {path.name: path.read_bytes() for path in job.folder.iterdir() if path.is_file()}
    command = [sys.executable, "-m", "sane_engine.jobs.runner", str(job.folder)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert {path.name: path.read_bytes() for path in job.folder.iterdir() if path.is_file()} == before


def test_a_damaged_record_is_no_job_and_harms_no_other(checkpoint: Path) -> None:
    job = wait(jobs.submit(["inspect", str(checkpoint)], "Look").id, ended)
    damaged = ["", "[]", "{", '{"title": 1}', '{"title": "x", "created": 1, "arguments": []}', "\0"]
    for number, content in enumerate(damaged):
        broken = job.folder.parent / f"20200101-000000-0000000{number}"
        broken.mkdir()
        (broken / "job.json").write_text(content)
    assert [each.id for each in jobs.jobs()] == [job.id]
    for name in ("ended.json", RUNNER):
        (job.folder / name).write_text("[")
    assert jobs.find_job(job.id).state == "failed"


@pytest.mark.parametrize("name", ["", ".", "..", "../jobs", ".lock", "no such"])
def test_ids_do_not_lead_elsewhere(name: str) -> None:
    with pytest.raises(Refusal):
        jobs.find_job(name)


def test_the_time_left_follows_from_the_steps_and_not_from_the_start(checkpoint: Path) -> None:
    job = wait(jobs.submit(["inspect", str(checkpoint)], "Look").id, ended)
    log = job.folder / "progress.jsonl"
    times = [(0.0, 0, 10, "reading the zoo"), (100.0, 4, 4, "reading the zoo"), (160.0, 0, 50, "")]
    times += [(200.0 + 2.0 * step, step, 50, "loss 0.1") for step in range(1, 21)]
    lines = [json.dumps(dict(zip(("time", "done", "total", "message"), line, strict=True))) for line in times]
    log.write_text("\n".join(lines) + "\n")
    (job.folder / "ended.json").unlink()
    (job.folder / RUNNER).write_text(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}))
    job = jobs.find_job(job.id)
    assert job.state == "running" and job.begun is not None and (job.begun.done, job.begun.total) == (1, 50)
    assert job.remaining(240.0) == 60.0 and job.remaining(250.0) == 50.0 and job.remaining(1000.0) == 0.0
    log.write_text("\n".join(lines[:4]) + "\n")  # one step says nothing of the next
    assert jobs.find_job(job.id).remaining(210.0) is None
    (job.folder / RUNNER).unlink()  # it names this process


def test_progress_is_read_from_the_end_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    assert latest(path) is None and jobs.reports(path) == []
    for step in range(1000):
        append(path, step, 1000, f"loss {1 / (step + 1):.4f} · validation R² {step / 1000:.3f}")
    with path.open("a") as file:
        file.write('{"time": 1, "done": 10')
    last = latest(path)
    assert last is not None and (last.done, last.total, last.share) == (999, 1000, 0.999)
    assert jobs.measures(last.message) == {"loss": 0.001, "validation R²": 0.999}
    assert [report.done for report in jobs.reports(path, most=100)][-1] == 999
    assert len(jobs.reports(path, most=100)) <= 100
    assert jobs.measures("reading the zoo") == {}
