"""Names that depend on a call's arguments: ``payments:{tenant_id}``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from ..errors import ConfigurationError

FIELD = re.compile(r"\{[^\W\d]\w*(?:[.\[][^{}]*)?\}")


def is_template(name: str) -> bool:
    """Whether ``name`` names arguments."""
    return "{" in name and FIELD.search(name) is not None


def _fields(template: str, option: str) -> list[str]:
    """The names of the arguments that ``template`` asks for."""
    try:
        parsed = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ConfigurationError(f"{option}={template!r}: {error}; write an argument as in 'x:{{tenant_id}}'") from None
    return [re.split(r"[.\[]", field, maxsplit=1)[0] for field in parsed]


class Template:
    """A name for each call of a function with this signature.

    Args:
        template: as for ``str.format``, over the function's arguments by their names.
        signature: the function's.
        option: what the template was given as; for errors.

    Raises:
        ConfigurationError: the function has no such argument.
    """

    def __init__(self, template: str, signature: inspect.Signature, option: str) -> None:
        self._template = template
        self._signature = signature
        for name in _fields(template, option):
            if name not in signature.parameters:
                known = ", ".join(f"{{{name}}}" for name in signature.parameters)
                raise ConfigurationError(f"{option}={template!r}: there is no argument {name!r}; known are {known}")

    def render(self, args: Any, kwargs: Mapping[str, Any]) -> str:
        """The name for a call with these arguments; defaults count."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._template.format_map(bound.arguments)
