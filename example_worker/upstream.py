"""The payment service: a separate process that can be switched to fail, and counts its calls.

``python -m example_worker.upstream --port 8001``, then::

    POST /charge {"order": "A-1001", "amount": "9.90"}    a call takes 20 to 50 ms
    GET  /quote                                           return the fee; counts as a call too
    POST /mode   {"mode": "up" | "slow" | "failing" | "down"}
    POST /reset                                           forget all counts, and switch to up
    GET  /stats                                           return the counts; times are in seconds since the last reset
"""

import argparse
import json
import random
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODES = ("up", "slow", "failing", "down")
FEE = "1.4 %"
Json = dict[str, Any]


def peak_in_any_second(times: Sequence[float]) -> int:
    """Return the maximum number of ``times`` (ascending, in seconds) within any period of one second."""
    return max((bisect_left(times, start + 1.0) - index for index, start in enumerate(times)), default=0)


@dataclass(slots=True)
class Outage:
    """The time from leaving the mode ``up`` until returning to it, in seconds since the last reset."""

    began: float
    ended: float | None = None
    calls: int = 0
    charged_before_its_end: int = 0


class Ledger:
    """The counts of calls and charges. Several threads may use one ledger."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget all counts, and switch to ``up``."""
        with self._lock:
            self._began = self._clock()
            self._mode = "up"
            self._calls: list[float] = []
            self._calls_by_mode: Counter[str] = Counter()
            self._charges: list[float] = []
            self._orders: Counter[str] = Counter()
            self._outages: list[Outage] = []

    @property
    def mode(self) -> str:
        return self._mode

    def switch(self, mode: str) -> None:
        """Switch to ``mode``. Leaving ``up`` begins an outage, returning to ``up`` ends the outage."""
        with self._lock:
            if mode != "up" and self._mode == "up":
                self._outages.append(Outage(began=self._now()))
            if mode == "up" and self._mode != "up":
                self._outages[-1].ended = self._now()
                self._outages[-1].charged_before_its_end = len(self._orders)
            self._mode = mode

    def call(self) -> None:
        """Count a call when it arrives."""
        with self._lock:
            self._calls.append(self._now())
            self._calls_by_mode[self._mode] += 1
            if self._mode != "up":
                self._outages[-1].calls += 1

    def charge(self, order: str) -> None:
        """Count a charge. A second charge of the same order is a duplicate."""
        with self._lock:
            self._charges.append(self._now())
            self._orders[order] += 1

    def stats(self) -> Json:
        with self._lock:
            now = self._now()
            per_second = Counter(int(at) for at in self._calls)
            return {
                "mode": self._mode,
                "now": now,
                "calls": len(self._calls),
                "calls_by_mode": {mode: self._calls_by_mode[mode] for mode in MODES},
                "outages": [asdict(outage) for outage in self._outages],
                "charges": len(self._charges),
                "orders": len(self._orders),
                "duplicates": len(self._charges) - len(self._orders),
                "last_charge": self._charges[-1] if self._charges else None,
                "last_second": len(self._calls) - bisect_left(self._calls, now - 1.0),
                "peak_in_any_second": peak_in_any_second(self._calls),
                "per_second": [per_second[second] for second in range(int(now) + 1)],
            }

    def _now(self) -> float:
        return self._clock() - self._began


class Server(ThreadingHTTPServer):
    """The HTTP server, with the ledger that all requests share."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.ledger = Ledger()


class Handler(BaseHTTPRequestHandler):
    """The handler of one request."""

    server: Server

    def do_GET(self) -> None:
        if self.path == "/stats":
            self._reply(200, self.server.ledger.stats())
        elif self.path == "/quote":
            self._call(lambda: {"fee": FEE})
        else:
            self._reply(404, {"error": "GET /stats or /quote"})

    def do_POST(self) -> None:
        body = self._body()
        ledger = self.server.ledger
        if self.path == "/charge":
            self._call(lambda: self._charge(str(body.get("order"))))
        elif self.path == "/reset":
            ledger.reset()
            self._reply(200, ledger.stats())
        elif self.path == "/mode" and body.get("mode") in MODES:
            ledger.switch(body["mode"])
            self._reply(200, ledger.stats())
        else:
            self._reply(400, {"error": f"POST /charge, /reset, or /mode with one of {', '.join(MODES)}"})

    def _charge(self, order: str) -> Json:
        self.server.ledger.charge(order)
        return {"receipt": f"receipt for {order}"}

    def _call(self, answer: Callable[[], Json]) -> None:
        """Handle a customer's call as the mode requires. If the call succeeds, reply with ``answer()``."""
        ledger = self.server.ledger
        ledger.call()
        if ledger.mode == "slow":
            time.sleep(3.0)
        elif ledger.mode != "down":
            time.sleep(random.uniform(0.020, 0.050))
        if ledger.mode == "down":  # also for a call that was running when the service went down
            self.close_connection = True
        elif ledger.mode == "failing":
            self._reply(500, {"error": "the payment service is failing"})
        else:
            self._reply(200, answer())

    def _body(self) -> Json:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = {}
        return body if isinstance(body, dict) else {}

    def _reply(self, status: int, body: Json) -> None:
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        with suppress(ConnectionError):  # the caller timed out
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Write no access log, because ``GET /stats`` has the counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A payment service that can be switched to fail.")
    parser.add_argument("--port", type=int, required=True)
    with Server(parser.parse_args().port) as server:
        print("payment service on http://{}:{}".format(*server.server_address), flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
