"""The subset of Python that policies keep to, read from their ``ast``; how it is written is each target's business.

Parameters, assignment (of tuples too), ``if``/``elif``/``else``, comparisons joined by ``and``/``or``/``not``,
``+ - * // %``, ``min``, ``max``, integer constants of the module, and ``return`` of a tuple, last in its block.
Whatever else stands there is refused with its file and line. Numbers stay below 2**53.
"""

from __future__ import annotations

import ast
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from ..policies import Policy


class Untranslatable(ValueError):
    """A policy uses something outside the subset. The message names file, line and what it is."""


class Function(ABC):
    """One function definition, on its way to the language of a subclass."""

    language: ClassVar[str]
    reserved: ClassVar[frozenset[str]]
    """Names that mean something else there, or in what stands around the function."""
    comparisons: ClassVar[dict[type[ast.cmpop], str]]
    elif_word: ClassVar[str]

    def __init__(self, node: ast.FunctionDef, constants: dict[str, int], file: str) -> None:
        self.node, self.constants, self.file = node, constants, file
        arguments = node.args
        self.parameters = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        if arguments.vararg or arguments.kwarg or arguments.defaults or any(arguments.kw_defaults):
            raise self.refuse(node, "a parameter with a default or a star")
        if node.decorator_list:
            raise self.refuse(node, "a decorator")
        for name in (node.name, *self.parameters):
            self.check_name(name, node)
        self.locals: list[str] = []
        self.assigned = set(self.parameters)
        statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if not self.returns(statements):
            raise self.refuse(node, "a function that may end without a return")
        self.body = list(self.block(statements, 1))

    @classmethod
    def of(cls, source: str, name: str, file: str) -> Function:
        """The function ``name`` of a module's ``source``.

        Raises:
            Untranslatable: something in it is outside the subset.
        """
        constants: dict[str, int] = {}
        function = None
        for node in ast.parse(source, file).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=constant)], value=ast.Constant(value=int() as value)):
                    if _is_exact(value):
                        constants[constant] = value
                case ast.FunctionDef() if node.name == name:
                    function = node
        if function is None:
            raise Untranslatable(f"{file}: there is no function {name!r}")
        return cls(function, constants, file)

    @classmethod
    def of_policy(cls, policy: Policy) -> Function:
        """The function of ``policy``."""
        source = inspect.getsource(sys.modules[policy.decide.__module__])
        return cls.of(source, policy.name, inspect.getfile(policy.decide))

    # How a language writes it

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """All of it."""

    @abstractmethod
    def name(self, name: str) -> str:
        """A variable."""

    @abstractmethod
    def constant(self, value: int) -> str:
        """An integer."""

    @abstractmethod
    def arithmetic(self, left: str, operator: ast.operator, right: str) -> str | None:
        """One of ``+ - * // %``; None for anything else."""

    @abstractmethod
    def extreme(self, name: str, numbers: Sequence[str]) -> str:
        """``min`` or ``max``."""

    @abstractmethod
    def assign(self, names: Sequence[str], numbers: Sequence[str]) -> str:
        """Assignment to all of ``names`` at once."""

    @abstractmethod
    def give(self, numbers: Sequence[str]) -> str:
        """``return``."""

    @abstractmethod
    def end_if(self) -> str:
        """What ends an ``if``."""

    # What is in the subset

    def refuse(self, node: ast.AST, what: str) -> Untranslatable:
        return Untranslatable(f"{self.file}:{getattr(node, 'lineno', 0)}: {what} is outside the subset of policies")

    def check_name(self, name: str, node: ast.AST) -> None:
        if name in self.reserved:
            raise self.refuse(node, f"the name {name!r}, which {self.language} reserves,")
        if name in self.constants or not name.isascii():
            raise self.refuse(node, f"the name {name!r}, which is a constant's or not ASCII,")

    def returns(self, body: list[ast.stmt]) -> bool:
        match body:
            case [*_, ast.If() as last]:
                return self.returns(last.body) and self.returns(last.orelse)
            case [*_, ast.Return()]:
                return True
        return False

    def block(self, body: list[ast.stmt], depth: int) -> Iterator[str]:
        pad = "  " * depth
        for statement in body:
            if isinstance(statement, ast.Return):
                if statement is not body[-1]:
                    raise self.refuse(statement, "a return that is not last in its block")
                if not isinstance(statement.value, ast.Tuple):
                    raise self.refuse(statement, "a return of anything but a tuple")
                yield pad + self.give([self.number(item) for item in statement.value.elts])
            elif isinstance(statement, ast.If):
                yield from self.branch(statement, depth)
            elif isinstance(statement, ast.AugAssign):
                operation = ast.BinOp(statement.target, statement.op, statement.value)
                value = self.number(ast.copy_location(operation, statement))
                yield pad + self.assign([self.target(statement.target)], [value])
            elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                yield pad + self.assignment(statement.targets[0], statement.value)
            else:
                raise self.refuse(statement, f"the statement `{ast.unparse(statement).splitlines()[0]}`")

    def branch(self, node: ast.If, depth: int) -> Iterator[str]:
        pad = "  " * depth
        before = self.assigned
        after: list[set[str]] = []  # what has a value at the end of each branch that goes on
        word, rest = "if", list[ast.stmt]([node])
        while len(rest) == 1 and isinstance(rest[0], ast.If):
            inner = rest[0]
            yield f"{pad}{word} {self.condition(inner.test)} then"
            yield from self.block(inner.body, depth + 1)
            if not self.returns(inner.body):
                after.append(self.assigned)
            self.assigned = before
            word, rest = self.elif_word, inner.orelse
        if rest:
            yield f"{pad}else"
            yield from self.block(rest, depth + 1)
        if not self.returns(rest):
            after.append(self.assigned)
        self.assigned = set.intersection(*after) if after else before
        yield pad + self.end_if()

    def assignment(self, target: ast.expr, value: ast.expr) -> str:
        if not isinstance(target, ast.Tuple):
            number = self.number(value)
            return self.assign([self.target(target)], [number])
        if not isinstance(value, ast.Tuple) or len(value.elts) != len(target.elts):
            raise self.refuse(value, "unpacking of anything but a tuple of the same length")
        numbers = [self.number(item) for item in value.elts]
        names = [self.target(item) for item in target.elts]
        if len(set(names)) < len(names):
            raise self.refuse(target, "assignment to the same name twice at once")
        return self.assign(names, numbers)

    def target(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise self.refuse(node, f"assignment to `{ast.unparse(node)}`")
        self.check_name(node.id, node)
        if node.id not in self.parameters and node.id not in self.locals:
            self.locals.append(node.id)
        self.assigned = self.assigned | {node.id}
        return self.name(node.id)

    def condition(self, node: ast.expr) -> str:
        if isinstance(node, ast.BoolOp):
            word = " and " if isinstance(node.op, ast.And) else " or "
            return "(" + word.join(self.condition(value) for value in node.values) + ")"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return f"not ({self.condition(node.operand)})"
        if not isinstance(node, ast.Compare):
            raise self.refuse(node, f"the truth of `{ast.unparse(node)}` (compare it)")
        operands = [self.number(item) for item in (node.left, *node.comparators)]
        parts = []
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            if type(operator) not in self.comparisons:
                raise self.refuse(node, f"the comparison `{ast.unparse(node)}`")
            parts.append(f"{left} {self.comparisons[type(operator)]} {right}")
        return parts[0] if len(parts) == 1 else "(" + " and ".join(parts) + ")"

    def number(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=int() as value) if _is_exact(value):
                return self.constant(value)
            case ast.Name(id=name) if name in self.constants:
                return self.constant(self.constants[name])
            case ast.Name(id=name) if name in self.assigned:
                return self.name(name)
            case ast.Name(id=name) if name in self.locals:
                raise self.refuse(node, f"the name {name!r}, which may have no value here,")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return f"(-{self.number(operand)})"
            case ast.BinOp(left=left, op=operator, right=right):
                if written := self.arithmetic(self.number(left), operator, self.number(right)):
                    return written
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=[_, _, *_] as items, keywords=[]):
                return self.extreme(name, [self.number(item) for item in items])
        raise self.refuse(node, f"the expression `{ast.unparse(node)}`")


def _is_exact(value: int) -> bool:
    return not isinstance(value, bool) and value < 2**53


def heading(policy: Policy) -> str:
    """What stands above all that is generated, as a comment."""
    path = Path(inspect.getfile(policy.decide))
    return f"-- Generated by ratelimit_core.codegen from policies/{path.name}: change that file, then generate anew."
