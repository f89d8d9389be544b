"""Every error KoSent raises on purpose, in one small tree, and the exit code each one becomes.

    KosentError                 exit code 1; `hint` is the next command to type
    ├── UsageError              2   a flag, a path or a setting that cannot be right
    │   └── ContextLengthError  2   a message too long for the model's context; `tokens` and `room` say by how much
    ├── DataError               3   a corpus or data folder that cannot be used
    ├── MissingExtraError       4   an optional part is not installed
    ├── ModelError              5   a model that is not there, cannot be loaded or is of an unknown kind
    │   └── BackendError        5   the program that runs the model failed or went away
    │       ├── ServerDownError         nothing answers at its address
    │       ├── ServerTimeoutError      it answers no more
    │       ├── OutOfMemoryError        the model does not fit into memory
    │       └── InterruptedReplyError   it broke off in the middle of a reply; `text` and `reply` keep what came
    ├── VerificationError       6   an exported file does not say what the trained model says
    └── GateError               7   a model has become worse than a gate allows

Only `kosent.cli` turns an error into text and an exit code; everything else raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kosent.reply import Reply


class KosentError(Exception):
    """Something the user can mend. `str()` says what, where and what was found; `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(KosentError):
    exit_code = 2


class ContextLengthError(UsageError):
    """What was to be answered has `tokens` tokens of the model's own; there is room for `room`, the difference is too much."""

    def __init__(self, message: str, *, tokens: int, room: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tokens, self.room = tokens, room


class DataError(KosentError):
    exit_code = 3


class MissingExtraError(KosentError):
    exit_code = 4


class ModelError(KosentError):
    exit_code = 5


class BackendError(ModelError):
    pass


class ServerDownError(BackendError):
    pass


class ServerTimeoutError(BackendError):
    pass


class OutOfMemoryError(BackendError):
    pass


class InterruptedReplyError(BackendError):
    """`text` is what the model wrote before its stream ended early; `reply` the same as the chain's `Reply`, where a chain
    raised it."""

    def __init__(self, message: str, *, text: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.text = text
        self.reply: Reply | None = None


class VerificationError(KosentError):
    exit_code = 6


class GateError(KosentError):
    exit_code = 7
