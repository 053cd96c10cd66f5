"""Templates of names that depend on a call's arguments, such as ``payments:{tenant_id}``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from ..errors import ConfigurationError

FIELD = re.compile(r"\{[^\W\d]\w*(?:[.\[][^{}]*)?\}")


def is_template(name: str) -> bool:
    """Return whether ``name`` contains the name of an argument in braces."""
    return "{" in name and FIELD.search(name) is not None


def _fields(template: str, option: str) -> list[str]:
    """Return the names of the arguments that ``template`` uses."""
    try:
        parsed = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ConfigurationError(
            f"{option}={template!r}: {error}; write an argument in braces, as in 'x:{{tenant_id}}'"
        ) from None
    return [re.split(r"[.\[]", field, maxsplit=1)[0] for field in parsed]


class Template:
    """A template that gives a name to each call of a function.

    Args:
        template: a format string as for ``str.format``. Its fields are the names of the function's arguments.
        signature: the signature of the function.
        option: the name of the option that contains the template, for error messages.

    Raises:
        ConfigurationError: the template is malformed, or names an argument that the function does not have.
    """

    def __init__(self, template: str, signature: inspect.Signature, option: str) -> None:
        self._template = template
        self._signature = signature
        for name in _fields(template, option):
            if name not in signature.parameters:
                known = ", ".join(f"{{{name}}}" for name in signature.parameters)
                raise ConfigurationError(
                    f"{option}={template!r}: there is no argument {name!r}; the arguments are {known}"
                )

    def render(self, args: Any, kwargs: Mapping[str, Any]) -> str:
        """Return the name for a call with these arguments. Arguments that are not given have their defaults."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._template.format_map(bound.arguments)
