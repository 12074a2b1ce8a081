"""The exceptions of hbcore.

Expected outcomes (sold out, repeated, insufficient) are values, never exceptions. Exceptions are raised for misuse and
damage; every message names the value that was wrong and what would be right.
"""


class HbcoreError(Exception):
    """The base of every exception that is hbcore's own."""


class ConflictError(HbcoreError):
    """What was asked contradicts what exists: other parameters under the same name, or a final state."""


class NotFoundError(HbcoreError):
    """There is nothing of that name, and no parameters were given to create it."""


class InsufficientBudgetError(HbcoreError):
    """A budget cannot fund the envelope or the sub-budget that was asked of it."""


class ReadOnlyError(HbcoreError):
    """The engine was opened for reading only, and the call would write."""


class EngineFullError(HbcoreError):
    """The engine's capacity, its worker table or the disk under its file is used up.

    What makes something raises it, and a claim of an envelope of which so much was released that its index needs space.
    """


class EngineClosedError(HbcoreError):
    """The engine was closed; open it anew."""


class CorruptFileError(HbcoreError):
    """The file is damaged, truncated, or not an hbcore file."""


class IncompatibleFileError(HbcoreError):
    """The file was written by another version of the format, or on a machine of another byte order."""


class AuditError(HbcoreError):
    """The slots contradict the books: the message names the first thing that is wrong."""
