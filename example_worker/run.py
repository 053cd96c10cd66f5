"""Start the example and keep it running until Ctrl-C: ``python -m example_worker.run``.

honcho runs the Procfile on free ports. Set ``REDIS_URL`` to use another server than the embedded Valkey.
"""

import os
import sys
import tempfile
from pathlib import Path
from signal import SIGTERM

from example_worker.prepare import USER, site_environ
from example_worker.processes import Processes, free_port, leave_orderly

PROCFILE = Path(__file__).parent.parent / "Procfile"
PORTS = ("WEB_PORT", "FLOWER_PORT", "UPSTREAM_PORT", "VALKEY_PORT")


def main() -> int:
    leave_orderly()
    python = Path(sys.executable)
    ports = {name: os.environ.get(name) or str(free_port()) for name in PORTS}
    redis_url = os.environ.get("REDIS_URL") or f"redis://127.0.0.1:{ports['VALKEY_PORT']}/0"
    with tempfile.TemporaryDirectory(prefix="example-worker-") as directory:
        environ = {
            **ports,
            **site_environ(directory),
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",  # where the Procfile finds python and celery
            "PYTHONUNBUFFERED": "1",
            "REDIS_URL": redis_url,
            "UPSTREAM_URL": f"http://127.0.0.1:{ports['UPSTREAM_PORT']}",
        }
        with Processes(environ) as processes:
            processes.run("example_worker.prepare")
            print(addresses(environ, os.path.relpath(python)), flush=True)
            honcho = processes.start("honcho", "start", "--procfile", str(PROCFILE), when_orphaned=SIGTERM)
            return honcho.wait()


def addresses(environ: dict[str, str], python: str) -> str:
    site = f"http://127.0.0.1:{environ['WEB_PORT']}"
    redis_url, upstream_url = environ["REDIS_URL"], environ["UPSTREAM_URL"]
    return f"""
  Site               {site}/
  Admin              {site}/admin/ (user {USER}, password {environ["SITE_PASSWORD"]})
  Dashboard          {site}/resilience/ (the same user)
  Flower             http://127.0.0.1:{environ["FLOWER_PORT"]}/tasks
  Payment service    {upstream_url}/stats
  Store              {redis_url}

  A view behind the breaker of the workers, and a view with a limit:
    curl -i {site}/quote/
    curl -i {site}/api/orders/

  Enqueue orders (add --plain to use the task without a breaker):
    REDIS_URL={redis_url} {python} -m example_worker.enqueue

  Switch the payment service to slow, failing, down or up:
    curl {upstream_url}/mode -d '{{"mode": "down"}}'
"""


if __name__ == "__main__":
    sys.exit(main())
