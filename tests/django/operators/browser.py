"""A person at a browser: keeps cookies, follows redirects, fills in forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http.cookiejar import CookieJar
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener


class Page(NamedTuple):
    status: int
    text: str
    url: str

    @property
    def words(self) -> str:
        """What there is to read, without tags."""
        return " ".join(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", self.text, flags=re.DOTALL).split())

    @property
    def token(self) -> str:
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.text)
        return found[1] if found else ""


class Browser:
    def __init__(self, site: str) -> None:
        self.site = site
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()))
        self.headers: dict[str, str] = {}

    def ask(self, path: str, method: str = "GET", data: Mapping[str, object] | None = None) -> Page:
        body = None if data is None else urlencode(data).encode()
        request = Request(self.site + path, data=body, headers=self.headers, method=method)
        try:
            with self._opener.open(request, timeout=30) as response:
                return Page(response.status, response.read().decode(), response.url)
        except HTTPError as error:
            return Page(error.code, error.read().decode(), error.url or "")

    def get(self, path: str) -> Page:
        return self.ask(path)

    def submit(self, path: str, **data: object) -> Page:
        """Fill in the form of the page ``path``."""
        return self.ask(path, "POST", {"csrfmiddlewaretoken": self.get(path).token, **data})

    def log_in(self, name: str) -> Browser:
        page = self.submit("/admin/login/?next=/admin/", username=name, password=name)
        assert page.status == 200, page.text
        assert "Site administration" in page.text
        return self
