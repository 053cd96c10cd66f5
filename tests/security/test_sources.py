"""The packages run nothing that they were sent, and read nothing that could."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT

SOURCES = [path for package in ("ratelimit_core", "resilient_tasks") for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "subprocess", "pty"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "execfile"}


def forbidden(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                yield module
            case ast.Call(func=func) if ast.unparse(func) in CALLS:
                yield ast.unparse(func)
            case ast.keyword(arg="shell"):
                yield "shell"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_executed_or_unpickled(path: Path) -> None:
    assert not list(forbidden(ast.parse(path.read_text("utf-8"))))


@pytest.mark.parametrize(
    "text", ["import pickle", "from pickle import loads", "eval('1')", "os.system('x')", "run('x', shell=True)"]
)
def test_it_would_be_noticed(text: str) -> None:
    assert list(forbidden(ast.parse(text)))
