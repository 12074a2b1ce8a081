from collections.abc import Iterable

from hbcore.envelope import Envelope

def audit_all(envelopes: Iterable[Envelope]) -> list[int]: ...
