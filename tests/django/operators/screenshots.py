"""Takes the pictures of docs/dashboard.md, of the example project in an outage: ``make screenshots``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import requests
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.project.example.running import new_mark, start
from tests.servers import ROOT

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 150_000
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True}
DESK = {"viewport": {"width": 1000, "height": 640}}


def main() -> None:
    executable = shutil.which("chromium")
    if executable is None:
        raise SystemExit("install Chromium to take pictures")
    mark = new_mark()
    with (
        tempfile.TemporaryDirectory() as directory,
        start("run", mark, TMPDIR=directory, EXAMPLE_PREFIX=f"pictures-{mark}.") as example,
        sync_playwright() as playwright,
    ):
        site = example.wait_for("  Site ").split()[-1]
        password = example.wait_for("  Admin ").rsplit("password ", 1)[1].rstrip(")")
        upstream = example.wait_for("  Payment service ").split()[-1].removesuffix("stats")
        example.wait_for("ready.", timeout=60)
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = logged_in(browser, site, password)
        take_all(browser, page, upstream)
        browser.close()


def logged_in(browser: Browser, site: str, password: str) -> Page:
    page = browser.new_context(base_url=site, **DESK).new_page()  # type: ignore[arg-type]
    page.goto("/resilience/")
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/resilience/")
    return page


def take_all(browser: Browser, page: Page, upstream: str) -> None:
    def order(number: int) -> None:
        shop.get_by_role("button", name=f"Place {number}", exact=True).click()

    def switch(mode: str) -> None:
        requests.post(f"{upstream}mode", json={"mode": mode}, timeout=10).raise_for_status()

    shop = page.context.new_page()
    shop.goto("/")
    order(1)
    expect(page.locator(".card .state")).to_have_text("closed", timeout=20_000)
    take(page, "closed")
    switch("down")
    order(50)
    state = page.locator(".card .state")
    expect(state).to_have_text("open", timeout=20_000)
    expect(page.locator(".card")).to_contain_text("tasks", timeout=20_000)
    take(page, "open")
    page.emulate_media(color_scheme="dark")
    take(page, "open-dark")
    page.emulate_media(color_scheme="light")
    page.get_by_role("link", name="Switch and history").click()
    page.get_by_label("Reason").fill("they told us: until three o'clock")
    take(page, "switch")
    page.go_back()
    switch("slow")  # so that a probe takes long enough to be seen
    phone = browser.new_context(base_url=page.url, storage_state=page.context.storage_state(), **PHONE).new_page()  # type: ignore[arg-type]
    phone.goto("/resilience/")
    expect(phone.locator(".card .state")).to_have_text("half-open", timeout=30_000)
    take(phone, "half-open-phone")


def take(page: Page, name: str) -> None:
    """A picture in few colours, so that it is small."""
    path: Path = IMAGES / f"dashboard-{name}.png"
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    assert path.stat().st_size < MOST_BYTES, path


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    main()
