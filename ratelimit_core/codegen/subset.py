"""The subset of Python in which policies are written, read from their ``ast``. Each language has a subclass.

The subset has parameters, assignment (of tuples too), ``if``/``elif``/``else``, comparisons joined by
``and``/``or``/``not``, ``+ - * // %``, ``min``, ``max``, integer constants of the module, ``return`` of a tuple as the
last statement of a block, and calls of helper functions (see :mod:`.source`). Anything else is refused with its file
and line. Numbers stay below 2**53.
"""

from __future__ import annotations

import ast
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from ..policies import Policy
from .source import Module, is_exact, parameters, returns


class Function(ABC):
    """A function definition, written in the language of a subclass.

    Args:
        module: the module in which ``node`` is defined.
        node: the definition, without docstring and with its helpers inlined.
        helper: other functions call it, so it may return a single number.
    """

    language: ClassVar[str]
    reserved: ClassVar[frozenset[str]]
    """Names that mean something else in the language, or in the text around the function."""
    comparisons: ClassVar[dict[type[ast.cmpop], str]]
    elif_word: ClassVar[str]

    def __init__(self, module: Module, node: ast.FunctionDef, *, helper: bool = False) -> None:
        self.node, self.constants, self.refuse = node, module.constants, module.refuse
        self._helper = helper
        arguments = node.args
        self.parameters = [each.arg for each in parameters(node)]
        if arguments.vararg or arguments.kwarg or arguments.defaults or any(arguments.kw_defaults):
            raise self.refuse(node, "a parameter with a default or a star")
        if node.decorator_list:
            raise self.refuse(node, "a decorator")
        for name in (node.name, *self.parameters):
            self.check_name(name, node)
        self.locals: list[str] = []
        self.assigned = set(self.parameters)
        self.body = list(self.block(node.body, 1))

    @classmethod
    def of(cls, module: Module, name: str) -> Function:
        """Write the function ``name`` of a module.

        Raises:
            Untranslatable: something in it, or in a helper that it calls, is outside the subset.
        """
        node = module.function(name)
        for helper in module.helpers:  # a helper has to be right on its own, too
            cls(module, helper, helper=True)
        return cls(module, node)

    @classmethod
    def of_policy(cls, policy: Policy) -> Function:
        """Write the function of ``policy``."""
        return cls.of(Module.of(policy), policy.name)

    # How a language writes it

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Write the whole function."""

    @abstractmethod
    def name(self, name: str) -> str:
        """Write a variable."""

    @abstractmethod
    def constant(self, value: int) -> str:
        """Write an integer."""

    @abstractmethod
    def arithmetic(self, left: str, operator: ast.operator, right: str) -> str | None:
        """Write one of ``+ - * // %``; None for anything else."""

    @abstractmethod
    def extreme(self, name: str, numbers: Sequence[str]) -> str:
        """Write ``min`` or ``max``."""

    @abstractmethod
    def assign(self, names: Sequence[str], numbers: Sequence[str]) -> str:
        """Write the assignment to all of ``names`` at once."""

    @abstractmethod
    def give(self, numbers: Sequence[str]) -> str:
        """Write ``return``."""

    @abstractmethod
    def end_if(self) -> str:
        """Write the end of an ``if``."""

    # What is in the subset

    def check_name(self, name: str, node: ast.AST) -> None:
        if name in self.reserved:
            raise self.refuse(node, f"the name {name!r}, which {self.language} reserves,")
        if name in self.constants or not name.isascii():
            raise self.refuse(node, f"the name {name!r}, which is a constant's or not ASCII,")

    def block(self, body: list[ast.stmt], depth: int) -> Iterator[str]:
        pad = "  " * depth
        for statement in body:
            if isinstance(statement, ast.Return):
                if statement is not body[-1]:
                    raise self.refuse(statement, "a return that is not last in its block")
                if not isinstance(statement.value, ast.Tuple) and not (self._helper and statement.value):
                    raise self.refuse(statement, "a return of anything but a tuple")
                values = statement.value.elts if isinstance(statement.value, ast.Tuple) else [statement.value]
                yield pad + self.give([self.number(item) for item in values])
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
            if not returns(inner.body):
                after.append(self.assigned)
            self.assigned = before
            word, rest = self.elif_word, inner.orelse
        if rest:
            yield f"{pad}else"
            yield from self.block(rest, depth + 1)
        if not returns(rest):
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
            case ast.Constant(value=int() as value) if is_exact(value):
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


def heading(policy: Policy) -> str:
    """Return the comment at the top of a generated file."""
    path = Path(inspect.getfile(policy.decide))
    return f"-- Generated by ratelimit_core.codegen from policies/{path.name}: change that file, then generate again."
