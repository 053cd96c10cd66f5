"""Generate Lua, SQL and faster Python from the policies.

``python -m ratelimit_core.codegen`` writes the files in ``policies/generated/``. With ``--check`` the command only
lists files that are out of date. :mod:`.subset` defines the part of Python in which a policy is written. :mod:`.lua`,
:mod:`.plpgsql` and :mod:`.python` each generate one language.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..policies import LIMITS, POLICIES
from .lua import lua_of
from .plpgsql import plpgsql_of
from .python import hit_of
from .source import Untranslatable

__all__ = ["Untranslatable", "main"]

HOME = Path(__file__).parent.parent / "policies" / "generated"
"""The directory of the generated files, which has one subdirectory for each language."""

_TARGETS = {
    "lua": (lua_of, POLICIES.values(), "lua"),
    "sql": (plpgsql_of, POLICIES.values(), "sql"),
    "python": (hit_of, LIMITS, "py"),
}
"""For each subdirectory: the function that generates the text for a policy, the policies, and the files' suffix."""


def main(argv: list[str] | None = None) -> int:
    """Write the generated files, or with ``--check`` list the files that are out of date. Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ratelimit_core.codegen", description="Generate Lua, SQL and faster Python from the policies."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args(argv).check
    stale, orphans = [], []
    for directory, (text_of, policies, suffix) in _TARGETS.items():
        for policy in policies:
            path, new = HOME / directory / f"{policy.name}.{suffix}", text_of(policy)
            if not path.exists() or path.read_text("utf-8") != new:
                stale.append(path.name)
                if not check:
                    path.write_text(new, "utf-8")
        expected = {f"{policy.name}.{suffix}" for policy in policies} | {"__init__.py"}
        orphans += sorted(path.name for path in (HOME / directory).glob("*.*") if path.name not in expected)
    for name in stale:
        print(f"{name}: {'out of date; run python -m ratelimit_core.codegen' if check else 'written'}")
    for name in orphans:
        print(f"{name}: belongs to no policy; delete it")
    return 1 if orphans or (check and stale) else 0
