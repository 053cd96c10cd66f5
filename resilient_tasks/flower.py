"""Show waiting tasks in Flower: the reason in the column Exception, and the end of the wait in the column ETA.

Write this in ``flowerconfig.py``, which Flower reads in the directory where it starts::

    from resilient_tasks.flower import format_task, tasks_columns
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

tasks_columns = "name,uuid,state,exception,eta,args,retries,received,started,runtime,worker"
"""The columns for Flower to show. ``exception`` says why a task waits, and ``eta`` says until when."""

_REFUSAL = re.compile(r"(?:CircuitBreakerError|RateLimitExceeded)\((?P<what>.*), retry in (?P<wait>[\d.e+-]+) s\)")


def format_task(task: Any) -> Any:
    """Change how Flower shows a waiting task. Flower calls this function for each task that it shows."""
    waits = _REFUSAL.fullmatch(str(task.exception or "")) if task.state in ("RETRY", "RECEIVED") else None
    if waits:
        if not task.eta and task.retried:
            task.eta = datetime.fromtimestamp(task.retried + float(waits["wait"])).astimezone().isoformat()
        task.exception = waits["what"]
    elif task.state in ("STARTED", "SUCCESS"):  # the task no longer waits
        task.exception = None
    return task
