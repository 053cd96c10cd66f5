"""Runs the Python that the pages show; commands are run by test_commands.

Blocks that are fenced as ``python`` run, one after the other in the namespace of their section (``##``). A word after
that says otherwise:

* ``python settings``: Django's settings, from there to the end of the section; the system checks have to accept them;
* ``python theirs``: another library's code, which has to compile.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import _state
from django.apps import AppConfig
from django.core.checks import ERROR, run_checks
from django.db import connections
from django.test import override_settings
from django.utils.module_loading import import_string

import ratelimit_core
import resilient_tasks
from docs.generate import generated
from ratelimit_core import backends
from ratelimit_core.config.schema import SETTINGS
from ratelimit_core.django import checks
from ratelimit_core.store import configured
from resilient_tasks.options import TASK_OPTIONS
from tests.django import settings as project
from tests.limiter import hammer
from tests.limiter.test_admission import DOCUMENTED
from tests.servers import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if page.name != "tutorial.md" and "```py" in page.read_text())
"""Those that show Python. The tutorial has a test of its own."""

_BLOCK = re.compile(r"^```python *(?P<kind>.*)\n(?P<code>(?s:.*?))^```$", re.MULTILINE)
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


class Block(NamedTuple):
    kind: str
    code: Any


def sections(page: Path) -> Iterator[tuple[str, list[Block]]]:
    """The title and the blocks of each section that has any; compiled, so that errors show the page's own line."""
    text = page.read_text()
    starts = [match.start() for match in _HEADING.finditer(text)]
    for start, end in zip([0, *starts], [*starts, len(text)], strict=True):
        blocks = []
        for found in _BLOCK.finditer(text, start, end):
            above = "\n" * text.count("\n", 0, found.start("code"))
            blocks.append(Block(found["kind"], compile(above + found["code"], str(page), "exec", dont_inherit=True)))
        if blocks:
            heading = _HEADING.match(text, start)
            yield f"{page.name}: {heading[1] if heading else 'first'}", blocks


SECTIONS = dict(section for page in PAGES for section in sections(page))


@pytest.fixture(autouse=True)
def celery_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared task is one of each app that is made after it; and it is looked for in the app that is current."""
    state: Any = _state
    monkeypatch.setattr(state, "_on_app_finalizers", set(state._on_app_finalizers))
    monkeypatch.setattr(state, "default_app", None)
    monkeypatch.setattr(state._tls, "current_app", None)


@pytest.mark.parametrize("section", SECTIONS)
def test_what_a_page_shows_runs(section: str) -> None:
    names: dict[str, Any] = {"__name__": "docs"}
    with ExitStack() as stack:
        for kind, code in SECTIONS[section]:
            match kind:
                case "":
                    exec(code, names)
                case "settings":
                    use_settings(code, stack)
                case _:
                    assert kind == "theirs", f"a block of {section} is fenced as 'python {kind}'"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_is_overlooked(page: Path) -> None:
    found = sum(len(blocks) for _, blocks in sections(page))
    assert found == len(re.findall(r"^ *```py", page.read_text(), re.MULTILINE)) > 0


def use_settings(code: Any, stack: ExitStack) -> None:
    """Have the settings that ``code`` makes of the test project's, until ``stack`` is closed."""
    before = {name: value for name, value in vars(project).items() if name.isupper()}
    after = copy.deepcopy(before)
    exec(code, after)
    after.pop("__builtins__")
    given = {name: value for name, value in after.items() if value != before.get(name)}
    for app in given.pop("INSTALLED_APPS", ()):
        AppConfig.create(app)
    for middleware in given.get("MIDDLEWARE", ()):
        import_string(middleware)
    use_databases(given.pop("DATABASES", {}), stack)
    assert all(name.startswith(("RATELIMIT_", "MIDDLEWARE", "REST_FRAMEWORK")) for name in given), given
    stack.enter_context(override_settings(**given))
    stack.callback(configured.forget)
    configured.forget()
    assert [found for found in run_checks(tags=["ratelimit"]) if found.level >= ERROR] == []


def use_databases(added: dict[str, Any], stack: ExitStack) -> None:
    """Have these aliases, to which nothing connects, until ``stack`` is closed."""
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    made = connections.configure_settings({"default": {}, **added})
    patch.setattr(connections, "settings", {**made, **connections.settings})


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below ``heading``, without its head."""
    text = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2]
    table = re.search(r"^\|.*?\n\n", text, re.MULTILINE | re.DOTALL)
    assert table, heading
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[0].splitlines()[2:] if line]


def test_the_numbers_of_the_algorithms_are_those_that_are_proved() -> None:
    numbers = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("limits.md", "Algorithms")}
    limit = {"limit": hammer.LIMIT, "burst": hammer.LIMIT}
    assert {name: eval(number, {}, limit) for name, number in numbers.items()} == DOCUMENTED


def test_every_setting_is_in_the_table() -> None:
    named = {cells[0].strip("`"): cells[1] for cells in rows("django.md", "Settings")}
    assert set(named) == {f"RATELIMIT_{name.upper()}" for name in SETTINGS}
    for name, setting in SETTINGS.items():
        default = setting.default
        shown = "" if default is None else f"`{list(default) if default == () else default!r}`"
        assert named[f"RATELIMIT_{name.upper()}"].replace('"', "'").replace("100_000", "100000") == shown, name


def test_every_option_of_a_task_is_in_the_table() -> None:
    named = [name.strip("` ") for cells in rows("celery.md", "Options") for name in cells[0].split(",")]
    assert sorted(named) == sorted(TASK_OPTIONS)


def test_every_check_is_in_the_table() -> None:
    named = [cells[0].strip("`") for cells in rows("django.md", "System checks")]
    assert named == re.findall(r"^``(ratelimit\.[EW]\d+)``", str(checks.__doc__), re.MULTILINE)


def test_what_is_generated_is_up_to_date() -> None:
    assert [path.name for path, text in generated().items() if path.read_text() != text] == [], "run `make docs`"


def test_every_public_name_is_in_the_reference() -> None:
    shown = set(re.findall(r"^::: (?:\w+\.)*(\w+)$", (DOCS / "reference.md").read_text(), re.MULTILINE))
    public = {*ratelimit_core.__all__, *resilient_tasks.__all__, *backends.__all__}
    assert public <= shown


@pytest.mark.parametrize(
    "page", [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.name
)
def test_links_work_where_the_code_is_hosted(page: Path) -> None:
    links = re.findall(r'\]\(([^)\s#:]+)(?:#[^)\s]*)?(?: "[^"]*")?\)', page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
