from collections.abc import Iterable

from hbcore.envelope import Envelope

def audit_envelopes(envelopes: Iterable[Envelope]) -> list[int]: ...
