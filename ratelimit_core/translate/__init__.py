"""Lua, SQL and quick Python from policies: ``python -m ratelimit_core.translate`` writes them, ``--check`` compares.

What a policy may be written in stands in :mod:`.subset`; what it becomes, in :mod:`.lua`, :mod:`.plpgsql` and
:mod:`.hits`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..policies import LIMITS, POLICIES
from .hits import hit_of
from .lua import lua_of
from .plpgsql import plpgsql_of
from .subset import Untranslatable

__all__ = ["Untranslatable", "main"]

HOME = Path(__file__).parent.parent
"""Under it lie the directories of what is generated."""

_TARGETS = {
    "lua": (lua_of, POLICIES.values(), "lua", {"apply.lua"}),
    "sql": (plpgsql_of, POLICIES.values(), "sql", {"together.sql"}),
    "hits": (hit_of, LIMITS, "py", {"__init__.py"}),
}
"""By directory: what makes the text of a policy, of which ones, the suffix, and what else lies there."""


def main(argv: list[str] | None = None) -> int:
    """Write the generated files, or with ``--check`` say which differ; the exit status says whether one did."""
    parser = argparse.ArgumentParser(
        prog="python -m ratelimit_core.translate", description="Policies in Lua, SQL and faster Python."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args(argv).check
    stale, orphans = [], []
    for directory, (text_of, policies, suffix, others) in _TARGETS.items():
        for policy in policies:
            path, new = HOME / directory / f"{policy.name}.{suffix}", text_of(policy)
            if not path.exists() or path.read_text("utf-8") != new:
                stale.append(path.name)
                if not check:
                    path.write_text(new, "utf-8")
        expected = {f"{policy.name}.{suffix}" for policy in policies} | others
        orphans += sorted(path.name for path in (HOME / directory).glob("*.*") if path.name not in expected)
    for name in stale:
        print(f"{name}: {'out of date; run python -m ratelimit_core.translate' if check else 'written'}")
    for name in orphans:
        print(f"{name}: belongs to no policy; delete it")
    return 1 if orphans or (check and stale) else 0
