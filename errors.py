"""Errors that are part of the interface: one line that says what, where, and what is allowed or which command helps."""

import argparse
import atexit
import difflib
import gc
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class InputError(Exception):
    """The user can mend this (a list, a file, a command line): one line on stderr, exit code 2."""


class Held(InputError):
    """Another process has the run directory; who can wait tries again."""


class RunError(Exception):
    """A run failed (NaN loss, lost disk): one line on stderr, exit code 1."""


class Diverged(RunError):
    """The loss is not finite: trained again, it would be so again."""


class Interrupted(Exception):
    """The process was told to stop and did so where it can go on: one line on stderr, exit code COME_AGAIN."""


# What tells a batch script that the same command goes on where this one stopped.
COME_AGAIN = 85


class Arguments(argparse.ArgumentParser):
    """A command line whose mistakes are one line as well, and whose description keeps its lines."""

    def __init__(self, *names: Any, **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(*names, **options)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"invalid int value: (.*)", r"must be a whole number, got \1", message)
        if wrong := re.fullmatch(r"(.*)invalid choice: '(.*?)'.* \(choose from (.*)\)", message):
            allowed = wrong[3].replace("'", "").split(", ")
            near = difflib.get_close_matches(wrong[2], allowed, 1)
            message = f"{wrong[1]}{wrong[2]!r} is unknown; {f'did you mean {near[0]!r}? ' if near else ''}allowed: {', '.join(allowed)}"
        self.exit(2, f"error: {message}; see: {self.prog} --help\n")


def report_errors(call: Callable[[], int | None], interrupted: str = "the same command goes on where this one stopped") -> int:
    """Calls a function; its exit code (None is 0), or that of the error it raised, told in one line on stderr. `interrupted`: what control-C means for its user."""
    # At its end the interpreter looks for cycles among all that was imported: with torch, longer than many a command takes.
    atexit.register(gc.freeze)
    try:
        return call() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"stopped: {error}", file=sys.stderr)
        return COME_AGAIN
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
