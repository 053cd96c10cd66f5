"""One word for one thing, and sentences with an actor.

The words that docs/glossary.md has retired are in no code and on no page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.servers import ROOT

GLOSSARY = ROOT / "docs/glossary.md"
ROW = re.compile(r"^\| (?P<term>[^|]+) \| (?P<meaning>[^|]+) \|(?P<retired>[^|]*)\|$", re.MULTILINE)
ROWS = [row.groupdict() for row in ROW.finditer(GLOSSARY.read_text("utf-8")) if row["term"] != "term"]
RETIRED = {word for row in ROWS for word in re.findall(r"`(\w+)`", row["retired"])}
THE_OLD_NAMES_OF_OPTIONS = ROOT / "ratelimit_core/_util/suggest.py"
WHAT_OLDER_RELEASES_WROTE = ROOT / "tests/compatibility/record.py"
THE_OLD_WAY = re.compile(
    r"\b(?:whoever|nobody|somebody|anew|lest|one's own|thereby)\b"
    r"|(?:^|[.:;,(#\"]\s*|\b(?:and|as|by|for|from|of|or|than|that|to|with)\s+)who\b",  # "a user who" is good English
    re.IGNORECASE,
)


def texts() -> Iterator[Path]:
    for directory in ("ratelimit_core", "resilient_tasks", "example_worker", "benchmarks", "docs", "tests"):
        yield from (path for suffix in ("py", "md", "html") for path in (ROOT / directory).rglob(f"*.{suffix}"))
    yield from (ROOT / name for name in ("README.md", "pyproject.toml", "mkdocs.yml"))


def test_there_are_few_enough_words_to_know_them_all() -> None:
    assert 20 < len(ROWS) <= 40
    assert len(RETIRED) > 20


def test_a_retired_word_is_used_nowhere() -> None:
    retired = re.compile(rf"\b({'|'.join(sorted(RETIRED))})\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in texts()
        if path not in (GLOSSARY, THE_OLD_NAMES_OF_OPTIONS, WHAT_OLDER_RELEASES_WROTE)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        for match in retired.finditer(line)
    ]
    assert found == []


def test_sentences_name_the_actor() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {' '.join(match[0].split())}"
        for package in ("ratelimit_core", "resilient_tasks")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".html", ".js", ".lua", ".sql")
        for match in THE_OLD_WAY.finditer(path.read_text("utf-8"))
    ]
    assert found == []
