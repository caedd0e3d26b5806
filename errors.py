"""Errors that are part of the interface: one line that says what, where, and what is allowed or which command helps."""


class InputError(Exception):
    """The user can mend this (a list, a file, a command line): one line on stderr, exit code 2."""


class RunError(Exception):
    """A run failed (NaN loss, lost disk): one line on stderr, exit code 1."""
