"""What Flower shows of tasks that wait: in the column Exception what for, and in the column ETA until when.

In ``flowerconfig.py``, which Flower reads where it is started::

    from resilient_tasks.flower import format_task, tasks_columns
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

tasks_columns = "name,uuid,state,exception,eta,args,retries,received,started,runtime,worker"
"""Flower knows no columns but its own; these two are where it has what a waiting task says."""

_REFUSAL = re.compile(r"(?:CircuitBreakerError|RateLimitExceeded)\((?P<what>.*), retry in (?P<wait>[\d.e+-]+) s\)")


def format_task(task: Any) -> Any:
    """Flower's hook for each task that it shows; what is not waiting stays as it is."""
    waits = _REFUSAL.fullmatch(str(task.exception or "")) if task.state in ("RETRY", "RECEIVED") else None
    if waits:
        if not task.eta and task.retried:
            task.eta = datetime.fromtimestamp(task.retried + float(waits["wait"])).astimezone().isoformat()
        task.exception = waits["what"]
    elif task.state in ("STARTED", "SUCCESS"):  # it waits no more
        task.exception = None
    return task
