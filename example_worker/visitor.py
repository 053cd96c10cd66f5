"""Somebody who asks the site for a quote again and again, as a shop's visitors do while a service is down."""

import statistics
import threading
import time
from dataclasses import dataclass

import requests

EVERY = 0.2  # seconds
PATIENCE = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What the site said, in how many seconds. ``status`` is 0 if it said nothing."""

    status: int
    took: float
    retry_after: bool = False

    @property
    def saved(self) -> bool:
        """Whether the visitor was told to come back, and the service was left alone."""
        return self.status in (429, 503) and self.retry_after


class Visitor:
    """Asks ``url`` from ``start()`` until ``stop()``; on new connections, so that all web processes get to answer."""

    def __init__(self, url: str) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._visit, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when the last answer is there."""
        self._left.set()
        self._thread.join()

    @property
    def typical(self) -> float:
        """The median of how many seconds an answer took."""
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
