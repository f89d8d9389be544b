"""Every error KoSent raises on purpose, in one small tree, and the exit code each one becomes.

    KosentError                 exit code 1; `hint` is the next command to type
    ├── UsageError              2   a flag, a path or a setting that cannot be right
    ├── DataError               3   a corpus or data folder that cannot be used
    ├── MissingExtraError       4   an optional part is not installed
    ├── ModelError              5   a model that is not there, cannot be loaded or is of an unknown kind
    │   └── BackendError        5   the program that runs the model failed or went away
    └── VerificationError       6   an exported file does not say what the trained model says

Only `kosent.cli` turns an error into text and an exit code; everything else raises.
"""

from __future__ import annotations


class KosentError(Exception):
    """Something the user can mend. `str()` says what, where and what was found; `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(KosentError):
    exit_code = 2


class DataError(KosentError):
    exit_code = 3


class MissingExtraError(KosentError):
    exit_code = 4


class ModelError(KosentError):
    exit_code = 5


class BackendError(ModelError):
    pass


class VerificationError(KosentError):
    exit_code = 6
