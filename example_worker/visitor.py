"""A visitor who requests a page of the site again and again during an outage."""

import statistics
import threading
import time
from dataclasses import dataclass

import requests

EVERY = 0.2  # seconds between requests
PATIENCE = 10.0  # seconds until a request times out


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the site, and its duration in seconds. ``status`` is 0 if there was no answer."""

    status: int
    took: float
    retry_after: bool = False

    @property
    def saved(self) -> bool:
        """Whether the answer came without a call to the service, and said when to come back."""
        return self.status in (429, 503) and self.retry_after


class Visitor:
    """A thread that requests ``url`` from ``start()`` until ``stop()``.

    Each request uses a new connection, so that all web processes take part.
    """

    def __init__(self, url: str) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._visit, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for the last answer."""
        self._left.set()
        self._thread.join()

    @property
    def typical(self) -> float:
        """The median duration of an answer in seconds."""
        return statistics.median(answer.took for answer in self.answers) if self.answers else 0.0

    def _visit(self) -> None:
        while not self._left.wait(EVERY):
            self.answers.append(self._ask())

    def _ask(self) -> Answer:
        began = time.monotonic()
        try:
            reply = requests.get(self._url, timeout=PATIENCE)
        except requests.RequestException:
            return Answer(0, time.monotonic() - began)
        return Answer(reply.status_code, time.monotonic() - began, "Retry-After" in reply.headers)
