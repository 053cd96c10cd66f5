"""Start the example and leave it running: ``python -m example_worker.run``; Ctrl-C ends it.

honcho runs the Procfile, on free ports; ``REDIS_URL`` names a server to use in place of the embedded one.
"""

import os
import sys
from pathlib import Path

from example_worker.processes import free_port

PROCFILE = Path(__file__).parent.parent / "Procfile"


def main() -> None:
    python = Path(sys.executable)
    valkey, upstream, flower = (
        os.environ.get(name) or str(free_port()) for name in ("VALKEY_PORT", "UPSTREAM_PORT", "FLOWER_PORT")
    )
    redis_url = os.environ.get("REDIS_URL") or f"redis://127.0.0.1:{valkey}/0"
    upstream_url = f"http://127.0.0.1:{upstream}"
    print(
        f"""
  Flower             http://127.0.0.1:{flower}/tasks
  Payment service    {upstream_url}/stats
  Store              {redis_url}

  Enqueue orders; add --plain for the task without a breaker:
    REDIS_URL={redis_url} {os.path.relpath(python)} -m example_worker.enqueue

  Switch the payment service to slow, failing, down, or up again:
    curl {upstream_url}/mode -d '{{"mode": "down"}}'
""",
        flush=True,
    )
    environ = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",  # the Procfile says python and celery
        "PYTHONUNBUFFERED": "1",
        "VALKEY_PORT": valkey,
        "UPSTREAM_PORT": upstream,
        "FLOWER_PORT": flower,
        "REDIS_URL": redis_url,
        "UPSTREAM_URL": upstream_url,
    }
    honcho = [str(python), "-m", "honcho", "start", "--procfile", str(PROCFILE)]
    os.execve(python, honcho, {**os.environ, **environ})


if __name__ == "__main__":
    main()
