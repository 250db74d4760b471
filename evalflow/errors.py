"""The errors that a user can cause, and the exit code that each one ends a command with.

Every message is one clear sentence: what happened, with the value, and what to do.
Belongs here: exception classes and the table of exit codes. Keep out: handling of them.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """One table for all commands."""

    OK = 0
    FAIL = 1
    USAGE = 2
    CANNOT_TELL = 3
    BAD_INPUT = 4
    UNREACHABLE = 5


class EvalflowError(Exception):
    """Base of all errors that are the user's to mend; ``exit_code`` is what the command ends with."""

    exit_code = ExitCode.FAIL


class UsageError(EvalflowError):
    """The command, option or setting is wrong."""

    exit_code = ExitCode.USAGE


class CannotTellError(EvalflowError):
    """The question has no answer from the data at hand."""

    exit_code = ExitCode.CANNOT_TELL


class EarlierVersionError(EvalflowError):
    """What is asked for was computed by an earlier version of evalflow, which did not have it."""

    exit_code = ExitCode.CANNOT_TELL


class BadInputError(EvalflowError):
    """A file or a row cannot be used."""

    exit_code = ExitCode.BAD_INPUT


class UnreachableError(EvalflowError):
    """A model, an endpoint or a package that is needed is not there."""

    exit_code = ExitCode.UNREACHABLE
