"""Translate policies, which are written in a subset of Python. Each target language has a subclass of `Function`.

The subset consists of:

* parameters, and integer constants of the module;
* assignment of a number to a name, or of a tuple to a tuple of as many names;
* ``if``, ``elif`` and ``else``, with comparisons as conditions, which ``and``, ``or`` and ``not`` may combine;
* ``+``, ``-``, ``*``, ``//``, ``%``, ``min`` and ``max``;
* ``return`` of a tuple, as the last statement of a block;
* calls of helper functions, see :mod:`.source`.

All numbers are integers below 2**53. Anything else raises :class:`Untranslatable`. The error names the file, the line,
and what to write instead.
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
    """A function of a policy's module, translated into the language of a subclass.

    Args:
        module: the module in which ``node`` is defined.
        node: the definition of the function, without its docstring and with its helpers inlined.
        helper: whether the function is a helper. A helper may return a single number instead of a tuple.
    """

    language: ClassVar[str]
    reserved: ClassVar[frozenset[str]]
    """Names that already have a meaning in the language, or in the generated text around the function."""
    comparisons: ClassVar[dict[type[ast.cmpop], str]]
    elif_word: ClassVar[str]

    def __init__(self, module: Module, node: ast.FunctionDef, *, helper: bool = False) -> None:
        self.node, self.constants, self.refuse = node, module.constants, module.refuse
        self._helper = helper
        arguments = node.args
        self.parameters = [each.arg for each in parameters(node)]
        if arguments.vararg or arguments.kwarg or arguments.defaults or any(arguments.kw_defaults):
            raise self.refuse(node, f"a parameter of {node.name!r} has a default or a star: write plain parameters")
        if node.decorator_list:
            raise self.refuse(node, f"{node.name!r} has a decorator: remove it")
        for name in (node.name, *self.parameters):
            self.check_name(name, node)
        self.locals: list[str] = []
        self.assigned = set(self.parameters)
        self.body = list(self.block(node.body, 1))

    @classmethod
    def of(cls, module: Module, name: str) -> Function:
        """Return the translation of the function ``name`` of a module.

        Raises:
            Untranslatable: the function or one of its helpers contains something outside the subset.
        """
        node = module.function(name)
        # Check each helper separately, because an inlined helper could read the variables of its caller.
        for helper in module.helpers:
            cls(module, helper, helper=True)
        return cls(module, node)

    @classmethod
    def of_policy(cls, policy: Policy) -> Function:
        """Return the translation of the function of ``policy``. See :meth:`of`."""
        return cls.of(Module.of(policy), policy.name)

    # The methods that a subclass implements

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Return the lines of the whole function."""

    @abstractmethod
    def name(self, name: str) -> str:
        """Return the text of a variable."""

    @abstractmethod
    def constant(self, value: int) -> str:
        """Return the text of an integer."""

    @abstractmethod
    def arithmetic(self, left: str, operator: ast.operator, right: str) -> str | None:
        """Return the text of ``+``, ``-``, ``*``, ``//`` or ``%``. Return None for any other operator."""

    @abstractmethod
    def extreme(self, name: str, numbers: Sequence[str]) -> str:
        """Return the text of ``min`` or ``max``."""

    @abstractmethod
    def assign(self, names: Sequence[str], numbers: Sequence[str]) -> str:
        """Return the text that assigns ``numbers`` to ``names``. The numbers use the old values of the names."""

    @abstractmethod
    def give(self, numbers: Sequence[str]) -> str:
        """Return the text of a ``return`` statement."""

    @abstractmethod
    def end_if(self) -> str:
        """Return the text that ends an ``if``."""

    # The constructs of the subset

    def check_name(self, name: str, node: ast.AST) -> None:
        if name in self.reserved:
            raise self.refuse(node, f"the name {name!r} is reserved in {self.language}: rename it")
        if name in self.constants:
            raise self.refuse(node, f"the name {name!r} belongs to a constant of the module: use another name")
        if not name.isascii():
            raise self.refuse(node, f"the name {name!r} is not ASCII: rename it")

    def block(self, body: list[ast.stmt], depth: int) -> Iterator[str]:
        pad = "  " * depth
        for statement in body:
            if isinstance(statement, ast.Return):
                if statement is not body[-1]:
                    raise self.refuse(statement, "statements follow this return in its block: remove them")
                if not isinstance(statement.value, ast.Tuple) and not (self._helper and statement.value):
                    raise self.refuse(
                        statement, f"`{ast.unparse(statement)}` returns no tuple: write one, such as `return a, b`"
                    )
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
                raise self.refuse(
                    statement,
                    f"the statement `{ast.unparse(statement).splitlines()[0]}` can't be translated:"
                    " write an assignment to one target, an `if` or a `return`",
                )

    def branch(self, node: ast.If, depth: int) -> Iterator[str]:
        pad = "  " * depth
        before = self.assigned
        after: list[set[str]] = []  # the names that have a value after each branch that does not return
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
            count = len(target.elts)
            raise self.refuse(
                value, f"`{ast.unparse(value)}` is assigned to {count} names: write a tuple of {count} values"
            )
        numbers = [self.number(item) for item in value.elts]
        names = [self.target(item) for item in target.elts]
        if len(set(names)) < len(names):
            raise self.refuse(target, f"`{ast.unparse(target)}` assigns to one name twice: use two names")
        return self.assign(names, numbers)

    def target(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise self.refuse(node, f"assignment to `{ast.unparse(node)}` can't be translated: assign to a name")
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
            text = ast.unparse(node)
            raise self.refuse(node, f"`{text}` is used as a condition: write a comparison, such as `x > 0`")
        operands = [self.number(item) for item in (node.left, *node.comparators)]
        parts = []
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            if type(operator) not in self.comparisons:
                text = ast.unparse(node)
                raise self.refuse(
                    node, f"the comparison `{text}` can't be translated: use `==`, `!=`, `<`, `<=`, `>` or `>=`"
                )
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
                raise self.refuse(node, f"{name!r} may be unassigned here: assign it in every branch before")
            case ast.Name(id=name):
                raise self.refuse(node, f"{name!r} is unknown here: assign it before, or define an integer constant")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return f"(-{self.number(operand)})"
            case ast.BinOp(left=left, op=operator, right=right):
                if written := self.arithmetic(self.number(left), operator, self.number(right)):
                    return written
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=[_, _, *_] as items, keywords=[]):
                return self.extreme(name, [self.number(item) for item in items])
        raise self.refuse(
            node,
            f"the expression `{ast.unparse(node)}` can't be translated: write integers below 2**53, names,"
            " `+ - * // %`, `min` or `max`, and call a helper as in `a = helper(b)`",
        )


def heading(policy: Policy) -> str:
    """Return the comment at the top of a generated file."""
    path = Path(inspect.getfile(policy.decide))
    return f"-- Generated by ratelimit_core.codegen from policies/{path.name}: change that file, then generate again."
