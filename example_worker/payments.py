"""Clients of the payment service: one for customers, and one for the operator of the service."""

import os
from typing import Any

import requests

Stats = dict[str, Any]


def service_url() -> str:
    return os.environ.get("UPSTREAM_URL", "http://127.0.0.1:8001")


def post_charge(order_id: str, amount: str) -> str:
    """Charge ``amount`` and return the receipt of the payment service, or raise a ``RequestException``."""
    reply = requests.post(
        service_url() + "/charge",
        json={"order": order_id, "amount": amount},
        timeout=(1, 2),
    )
    reply.raise_for_status()
    return str(reply.json()["receipt"])


def get_quote() -> str:
    """Return the fee for a charge, or raise a ``RequestException``."""
    reply = requests.get(service_url() + "/quote", timeout=(1, 2))
    reply.raise_for_status()
    return str(reply.json()["fee"])


class Upstream:
    """A client for the operator of the payment service. Only one thread may use a client."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def stats(self) -> Stats:
        return self._ask("GET", "/stats")

    def reset(self) -> None:
        self._ask("POST", "/reset")

    def switch(self, mode: str) -> None:
        self._ask("POST", "/mode", {"mode": mode})

    def _ask(self, method: str, path: str, body: Stats | None = None) -> Stats:
        reply = self._session.request(method, self._url + path, json=body, timeout=5)
        reply.raise_for_status()
        stats: Stats = reply.json()
        return stats
