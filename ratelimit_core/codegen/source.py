"""Read the module of a policy: its constants, and its functions with the calls of helper functions inlined.

A policy may call helper functions of its module. The call must be the whole right side of an assignment, as in
``a, b = helper(x, y)`` or ``a = helper(x)``. A helper is written in the same subset as a policy, and takes positional
arguments. Every path through a helper must end in a ``return``. A helper may call other helpers, but not itself.

The generator replaces the call with the statements of the helper, and renames the helper's variables:

* A parameter that the helper does not assign becomes the caller's variable or constant.
* A variable whose value is returned becomes the variable that the call assigns, where possible.
* Any other variable keeps its name. If the caller uses that name too, a number is added to the name.

This module has over 300 lines because the rules of inlining are one walk over the syntax tree.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from ..policies import Policy


class Untranslatable(ValueError):
    """A policy is not written in the subset. The message names the file, the line, and what to write instead."""


class Module:
    """The module of a policy, read from its source.

    Attributes:
        file: the name of the module's file, for messages.
        constants: the integers that are assigned at the top level of the module.
        helpers: the helpers that :meth:`function` has inlined, each with its own helpers inlined.
    """

    def __init__(self, source: str, file: str) -> None:
        self.file = file
        self.constants: dict[str, int] = {}
        self.helpers: list[ast.FunctionDef] = []
        self._functions: dict[str, ast.FunctionDef] = {}
        for node in ast.parse(source, file).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int() as value)):
                    if is_exact(value):
                        self.constants[name] = value
                case ast.FunctionDef():
                    self._functions[node.name] = node

    @classmethod
    def of(cls, policy: Policy) -> Module:
        """Read the module of ``policy``."""
        source = inspect.getsource(sys.modules[policy.decide.__module__])
        return cls(source, inspect.getfile(policy.decide))

    def function(self, name: str) -> ast.FunctionDef:
        """Return the function ``name`` without its docstring, with all calls of helpers inlined.

        Raises:
            Untranslatable: there is no function ``name``, or a helper or its call does not follow the rules.
        """
        if name not in self._functions:
            raise Untranslatable(f"{self.file}: there is no function {name!r}")
        return self._inlined(name, ())

    def refuse(self, node: ast.AST, message: str) -> Untranslatable:
        """Return the error for ``node``. ``message`` says what is wrong and what to write instead."""
        return Untranslatable(f"{self.file}:{getattr(node, 'lineno', 0)}: {message}")

    def _inlined(self, name: str, callers: tuple[str, ...]) -> ast.FunctionDef:
        node = copy.deepcopy(self._functions[name])
        if ast.get_docstring(node) is not None:
            del node.body[0]
        if not returns(node.body):
            raise self.refuse(node, f"{name!r} may end without a return: let every branch return")
        names = {each.arg for each in parameters(node)} | _assigned(node.body)
        if clash := sorted(names & self._functions.keys()):
            raise self.refuse(node, f"the name {clash[0]!r} belongs to a function: rename the variable")
        caller = _Caller(names | _read(node.body) | self.constants.keys())
        node.body = self._block(node.body, caller, (*callers, name))
        if callers:
            self.helpers.append(node)
        return node

    def _block(self, body: Sequence[ast.stmt], caller: _Caller, callers: tuple[str, ...]) -> list[ast.stmt]:
        """Return ``body`` with each call of a helper replaced by the helper's statements."""
        found: list[ast.stmt] = []
        for statement in body:
            match statement:
                case ast.If():
                    statement.body = self._block(statement.body, caller, callers)
                    statement.orelse = self._block(statement.orelse, caller, callers)
                    found.append(statement)
                case ast.Assign(targets=[target], value=ast.Call(func=ast.Name(id=name)) as call) if (
                    name in self._functions
                ):
                    if name in callers:
                        raise self.refuse(call, f"{name!r} is called inside itself: write it without recursion")
                    helper = self._inlined(name, callers)
                    found += self._call(call, target, helper, caller)
                case _:
                    found.append(statement)
        return found

    def _call(self, call: ast.Call, target: ast.expr, helper: ast.FunctionDef, caller: _Caller) -> list[ast.stmt]:
        """Return the statements that replace ``call``. They assign the results of ``helper`` to ``target``."""
        takes, targets = self._signature(call, helper), self._targets(target)
        given = dict(zip(takes, call.args, strict=True))
        body = self._early(helper.body)
        results = [self._results(node, len(targets)) for node in _returns(body)]
        changed = _assigned(body)
        replaced: dict[str, ast.expr] = {
            name: value for name, value in given.items() if name not in changed and _is_atom(value)
        }
        begin: list[ast.stmt] = []
        homes = _homes(targets, results, {name for name in (*takes, *changed) if name not in replaced}, given)
        for name in (*takes, *sorted(changed - given.keys())):
            if name in replaced:
                continue
            home = homes.get(name) or caller.new(name)
            replaced[name] = ast.Name(home, ast.Load())
            if name in given and not _is_name(given[name], home):
                begin.append(ast.copy_location(ast.Assign([ast.Name(home, ast.Store())], given[name]), call))
        ends = _Ends(replaced, lambda node: _assignment(targets, self._results(node, len(targets)), replaced))
        return begin + ends.block(body)

    def _signature(self, call: ast.Call, helper: ast.FunctionDef) -> list[str]:
        arguments = helper.args
        if arguments.kwonlyargs or arguments.vararg or arguments.kwarg or arguments.defaults or helper.decorator_list:
            raise self.refuse(
                helper, f"the helper {helper.name!r} has a decorator or special parameters: write plain parameters only"
            )
        takes = [each.arg for each in parameters(helper)]
        if call.keywords or len(call.args) != len(takes) or any(isinstance(each, ast.Starred) for each in call.args):
            raise self.refuse(
                call,
                f"the call `{ast.unparse(call)}` does not fit {helper.name!r}: pass {len(takes)} arguments by position",
            )
        return takes

    def _targets(self, target: ast.expr) -> list[str]:
        found: list[str] = []
        for each in target.elts if isinstance(target, ast.Tuple) else [target]:
            if not isinstance(each, ast.Name):
                raise self.refuse(each, f"assignment to `{ast.unparse(each)}` can't be translated: assign to a name")
            if each.id in found:
                raise self.refuse(target, f"`{ast.unparse(target)}` assigns to one name twice: use two names")
            found.append(each.id)
        return found

    def _results(self, node: ast.Return, wanted: int) -> list[ast.expr]:
        """Return the values of a helper's ``return``."""
        results = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        if len(results) != wanted or results[0] is None:
            raise self.refuse(
                node,
                f"`{ast.unparse(node)}` does not fit the call: return as many values as the call assigns, {wanted}",
            )
        return [each for each in results if each is not None]

    def _early(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Return ``body`` without early returns. The statements after them move to the branch that does not return."""
        for i, statement in enumerate(body):
            rest = body[i + 1 :]
            if isinstance(statement, ast.Return) and rest:
                raise self.refuse(statement, "statements follow this return in its block: remove them")
            if not isinstance(statement, ast.If) or not any(_returns([statement])):
                continue
            test, then, otherwise = statement.test, statement.body, statement.orelse
            if rest and returns(then):
                otherwise = [*otherwise, *rest]
            elif rest and returns(otherwise):
                then = [*then, *rest]
            elif rest:
                raise self.refuse(statement, "a branch of this `if` returns in some cases: let it return in all cases")
            return [*body[:i], ast.copy_location(ast.If(test, self._early(then), self._early(otherwise)), statement)]
        return list(body)


class _Caller:
    """The names that a function uses, including the names of the helpers that are inlined in the function."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def new(self, name: str) -> str:
        """Return a name that is not in use: ``name``, or ``name`` with a number. The returned name is then in use."""
        if name in self._names:
            name = next(f"{name}_{n}" for n in count(2) if f"{name}_{n}" not in self._names)
        self._names.add(name)
        return name


class _Ends(ast.NodeTransformer):
    """A transformer that replaces the names of a helper, and replaces each ``return`` with the result of ``end``."""

    def __init__(self, replaced: dict[str, ast.expr], end: Callable[[ast.Return], ast.stmt | None]) -> None:
        self._replaced, self._end = replaced, end

    def block(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Return the statements that replace ``body``. There may be none."""
        found: list[ast.stmt | None] = []
        for statement in body:
            if isinstance(statement, ast.Return):
                found.append(self._end(statement))
            elif isinstance(statement, ast.If):
                found.append(self._if(statement))
            else:
                found.append(self.visit(copy.deepcopy(statement)))
        return [statement for statement in found if statement is not None]

    def _if(self, node: ast.If) -> ast.stmt | None:
        test, then, otherwise = self.visit(copy.deepcopy(node.test)), self.block(node.body), self.block(node.orelse)
        if not then and not otherwise:
            return None
        if not then:
            test, then, otherwise = ast.copy_location(ast.UnaryOp(ast.Not(), test), test), otherwise, []
        return ast.copy_location(ast.If(test, then, otherwise), node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return _replaced(node, self._replaced)


def parameters(node: ast.FunctionDef) -> list[ast.arg]:
    """Return the parameters of a function in the order of its signature."""
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def returns(body: Sequence[ast.stmt]) -> bool:
    """Return whether ``body`` always ends in a ``return``, in every branch of its last statement."""
    match body:
        case [*_, ast.If() as last]:
            return returns(last.body) and returns(last.orelse)
        case [*_, ast.Return()]:
            return True
    return False


def is_exact(value: int) -> bool:
    """Return whether a constant is an integer that every language represents exactly."""
    return not isinstance(value, bool) and value < 2**53


def _homes(
    targets: Sequence[str], results: Iterable[Sequence[ast.expr]], names: set[str], given: dict[str, ast.expr]
) -> dict[str, str]:
    """Map each of the helper's ``names`` whose value is returned to a target of the call, to this target.

    If another argument of the call reads the target, the name is left out, because the target would change before the
    argument is read.
    """
    homes: dict[str, str] = {}
    for values in results:
        for target, value in zip(targets, values, strict=True):
            name = value.id if isinstance(value, ast.Name) else ""
            others = [argument for parameter, argument in given.items() if parameter != name]
            if name in names and name not in homes and target not in homes.values() and target not in _read(others):
                homes[name] = target
    return homes


def _assignment(targets: Sequence[str], values: Sequence[ast.expr], replaced: dict[str, ast.expr]) -> ast.stmt | None:
    """Return the assignment of a helper's results to ``targets``, without results that are in their target already."""
    pairs = []
    for target, value in zip(targets, values, strict=True):
        now = _Ends(replaced, lambda _: None).visit(copy.deepcopy(value))
        if not _is_name(now, target):
            pairs.append((ast.copy_location(ast.Name(target, ast.Store()), value), now))
    if not pairs:
        return None
    if len(pairs) == 1:
        return ast.copy_location(ast.Assign([pairs[0][0]], pairs[0][1]), values[0])
    left, right = (ast.Tuple(list(side)) for side in zip(*pairs, strict=True))
    return ast.copy_location(ast.Assign([left], ast.copy_location(right, values[0])), values[0])


def _replaced(node: ast.Name, by: dict[str, ast.expr]) -> ast.expr:
    value = by.get(node.id)
    if value is None:
        return node
    return ast.copy_location(ast.Name(value.id, node.ctx) if isinstance(value, ast.Name) else copy.copy(value), node)


def _is_atom(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Constant)


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _returns(body: Iterable[ast.AST]) -> list[ast.Return]:
    return [node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Return)]


def _read(body: Iterable[ast.AST]) -> set[str]:
    return {node.id for part in body for node in ast.walk(part) if isinstance(node, ast.Name)}


def _assigned(body: Iterable[ast.AST]) -> set[str]:
    return {
        node.id
        for part in body
        for node in ast.walk(part)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
