"""Lua and SQL from policies: ``python -m ratelimit_core.translate`` writes them, ``--check`` verifies what is there.

What a policy may be written in stands in :mod:`.subset`; what it becomes, in :mod:`.lua` and :mod:`.plpgsql`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..policies import POLICIES
from .lua import lua_of
from .plpgsql import plpgsql_of
from .subset import Untranslatable

__all__ = ["Untranslatable", "main"]

HOME = Path(__file__).parent.parent
"""Under it lie the directories of what is generated."""

_TARGETS = {"lua": (lua_of, {"apply.lua"}), "sql": (plpgsql_of, {"together.sql"})}
"""By directory and suffix: what makes the text of a policy, and what else lies there."""


def main(argv: list[str] | None = None) -> int:
    """Write the generated files, or with ``--check`` say which differ; the exit status says whether one did."""
    parser = argparse.ArgumentParser(prog="python -m ratelimit_core.translate", description="Policies in Lua and SQL.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args(argv).check
    stale, orphans = [], []
    for kind, (text_of, others) in _TARGETS.items():
        for policy in POLICIES.values():
            path, new = HOME / kind / f"{policy.name}.{kind}", text_of(policy)
            if not path.exists() or path.read_text("utf-8") != new:
                stale.append(path.name)
                if not check:
                    path.write_text(new, "utf-8")
        expected = {f"{name}.{kind}" for name in POLICIES} | others
        orphans += sorted(path.name for path in (HOME / kind).iterdir() if path.name not in expected)
    for name in stale:
        print(f"{name}: {'out of date; run python -m ratelimit_core.translate' if check else 'written'}")
    for name in orphans:
        print(f"{name}: belongs to no policy; delete it")
    return 1 if orphans or (check and stale) else 0
