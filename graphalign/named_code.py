"""Python objects by name, as users write them on a command line: `package.module:factory` or `file.py:factory(width=64)`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from graphalign.errors import InvalidInput, first_line

EXPECTED = "expected module:factory or file.py:factory, with arguments if needed: models:resnet(width=64)"


def call_named(text: str, what: str) -> Any:
    """What the named function or class returns when it is called; an object that cannot be called is returned as it is.

    This imports and runs the code that is named: pass only names from someone who may run code here. Modules are also looked for in
    the current folder.

    Args:
        text: "module:name" or "path/to/file.py:name"; arguments in parentheses are Python literals.
        what: the argument it was given for, for messages.

    Raises:
        InvalidInput: no such module or name, arguments that are no literals, or an exception in the code.
    """
    where, _, rest = text.rpartition(":")
    name, args, kwargs = parse_call(rest, what)
    if not where or not name:
        raise InvalidInput(f"{what}: found {text!r}, {EXPECTED}")
    found: Any = _module(where, what)
    for part in name.split("."):
        if not hasattr(found, part):
            known = ", ".join(n for n in vars(found) if not n.startswith("_") and callable(getattr(found, n)))[:200]
            raise InvalidInput(f"{what}: found no {part!r} in {where}, expected one of {known or 'its names, of which there are none'}")
        found = getattr(found, part)
    if not callable(found) or (hasattr(found, "parameters") and not isinstance(found, type)):
        return found
    try:
        return found(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 (code of the user)
        raise InvalidInput(f"{what}: {text} raised {type(error).__name__}: {first_line(error)}; correct it, or pass arguments in parentheses") from None


def parse_call(text: str, what: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name, positional and keyword arguments of "name" or "name(1, key='value')".

    Raises:
        InvalidInput: arguments that are no Python literals.
    """
    name, parenthesis, arguments = text.strip().partition("(")
    if not parenthesis:
        return name, [], {}
    try:
        call = ast.parse(f"f({arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("no call")
        values = [ast.literal_eval(value) for value in call.args]
        return name, values, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InvalidInput(f"{what}: found the arguments ({arguments[:80]}, expected numbers, texts and lists such as (width=64, depth=2)") from None


def _module(where: str, what: str) -> Any:
    sys.path.insert(0, os.getcwd())
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        file = Path(where)
        if not file.is_file():
            raise InvalidInput(f"{what}: found no file {where}, {EXPECTED}")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise InvalidInput(f"{what}: {where} cannot be imported, {EXPECTED}")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(file.stem, module)  # dataclasses and pickles look their module up
        spec.loader.exec_module(module)
        return module
    except InvalidInput:
        raise
    except Exception as error:  # noqa: BLE001 (code of the user)
        raise InvalidInput(f"{what}: importing {where} raised {type(error).__name__}: {first_line(error)}; {EXPECTED}") from None
    finally:
        sys.path.remove(os.getcwd())
