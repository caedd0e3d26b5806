"""What users bring along: networks and data sets that an entry names as `package.module:factory`."""

import importlib
import re
from collections.abc import Callable
from typing import Any

from errors import InputError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_factory(name: object) -> bool:
    """Whether a value of an entry has the form `package.module:factory`."""
    return isinstance(name, str) and not name.startswith("folder:") and _NAME.fullmatch(name) is not None


def load_factory(name: str) -> Callable[..., Any]:
    """The callable that `package.module:factory` names, found on Python's path, on which the project's root is; InputError where it cannot be had."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name}: cannot be imported ({reason}); allowed: package.module:factory on Python's path (PYTHONPATH)") from None
    if not callable(found):
        raise InputError(f"{name}: is a {type(found).__name__}, not a function that makes it")
    return found
