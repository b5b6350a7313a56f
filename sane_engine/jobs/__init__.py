"""Jobs: long commands that run beside the app and outlive the page, the browser and the server behind it."""

from __future__ import annotations

from sane_engine.jobs.job import ACTIVE as ACTIVE
from sane_engine.jobs.job import ENDED as ENDED
from sane_engine.jobs.job import Job as Job
from sane_engine.jobs.job import State as State
from sane_engine.jobs.queue import OWN_FOLDER as OWN_FOLDER
from sane_engine.jobs.queue import again as again
from sane_engine.jobs.queue import cancel as cancel
from sane_engine.jobs.queue import find_job as find_job
from sane_engine.jobs.queue import jobs as jobs
from sane_engine.jobs.queue import remove as remove
from sane_engine.jobs.queue import submit as submit
from sane_engine.progress_log import Report as Report
from sane_engine.progress_log import measures as measures
from sane_engine.progress_log import reports as reports

__all__ = [
    "ACTIVE", "ENDED", "OWN_FOLDER", "Job", "Report", "State", "again", "cancel", "find_job", "jobs", "measures",
    "remove", "reports", "submit",
]  # fmt: skip
