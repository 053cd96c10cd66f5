"""Import every module of the wheel; tests/project/packaging runs it where only the wheel's dependencies are installed.

It writes JSON: the errors of modules that can't be imported, and the packages that are imported anywhere, inside of
functions as well, and are not installed.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import django
from django.conf import settings

import ratelimit_core
import resilient_tasks

ROOTS = [Path(package.__path__[0]) for package in (ratelimit_core, resilient_tasks)]
FILES = {
    ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for root in ROOTS
    for path in sorted(root.rglob("*.py"))
    if path.stem != "__main__"  # programs
}


def failures(modules: list[str]) -> Iterator[tuple[str, str]]:
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            yield module, str(error)


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


assert all(Path(sys.prefix) in root.parents for root in ROOTS), ROOTS
of_django = [module for module in FILES if module.startswith("ratelimit_core.django")]
failed = dict(failures([module for module in FILES if module not in of_django]))  # without Django's settings
settings.configure(
    INSTALLED_APPS=[
        *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages", "sessions")),
        "ratelimit_core.django",
    ],
)
django.setup()
failed |= dict(failures(of_django))
imported = {name for path in FILES.values() for name in imported_packages(path)}
absent = imported - sys.stdlib_module_names - packages_distributions().keys()
print(json.dumps({"modules": len(FILES), "failed": failed, "absent": sorted(absent)}))
