"""Writes the golden vectors of the amounts, tests/data/amounts.json, from the reference.

``python tests/unit/make_amounts.py`` is only to be run when a law is changed on purpose: every envelope that was ever
made under the old one changes with it.
"""

import hashlib
import json
from pathlib import Path

from hbcore import reference

PATH = Path(__file__).resolve().parents[1] / "data" / "amounts.json"
WRITTEN_OUT = 64  # packets; longer lists are stored as their SHA-256

HUGE = 2**62 - 1
BOUNDS = [
    # total, packets, min, max
    (1, 1, 1, None),
    (10_000, 10, 1, None),
    (20_000, 50, 1, None),
    (50, 50, 1, None),  # nothing to divide
    (53, 50, 1, None),  # fewer units than packets
    (10_000, 10, 400, None),
    (10_000, 10, 1, 1_500),  # above the half of what the maxima allow
    (10_000, 10, 1, 2_500),
    (10_000, 10, 900, 1_100),
    (9_999, 10, 1, 1_000),  # one unit below packets * max
    (10_000, 10, 1, 1_000),
    (60_000, 60, 1, 1_500),  # rejection fails
    (60_000, 60, 1, 2_000),
    (60_000, 60, 1, 3_000),
    (2**32 + 12, 13, 1, None),  # bounds about 2**32: one word or two
    (HUGE, 1, 1, None),
    (HUGE, 2, 1, None),
    (HUGE, 33, 1, None),
    (HUGE, 33, 1, HUGE // 33 + 1),
    (HUGE, 33, HUGE // 33, None),
    (HUGE, 17, 2**57, 2**59),
]
STRATA = [1_023, 1_024, 1_025, 2_047, 2_049, 3_500]
FAR = [(HUGE, 2**40 - 1, 1, None), (2**50 + 7, 2**39 + 5, 100, 4_000), (2**40 + 1, 2**40 - 1, 1, 2)]


def laws() -> list[dict]:
    return [{"law": "equal"}, {"law": "double_mean"}] + [
        {"law": "dirichlet", "concentration": concentration} for concentration in (1, 2, 3, 8, 64)
    ]


def digest(amounts: list[int]) -> str:
    """The SHA-256 of the amounts as little-endian 64-bit integers."""
    return hashlib.sha256(b"".join(amount.to_bytes(8, "little") for amount in amounts)).hexdigest()


def cases() -> list[dict]:
    found = []
    for law in laws():
        for total, packets, low, high in BOUNDS:
            found.append({"total": total, "packets": packets, "min": low, "max": high, **law})
        for packets in STRATA:
            if law.get("concentration", 1) <= 3:
                found.append({"total": 200 * packets + 77, "packets": packets, "min": 1, "max": None, **law})
                found.append({"total": 1_000 * packets, "packets": packets, "min": 1, "max": 6_000, **law})
    for number, case in enumerate(found):
        case["seed"] = hashlib.sha256(f"amounts {number}".encode()).hexdigest()
    return found


def far_cases() -> list[dict]:
    found = []
    for total, packets, low, high in FAR:
        for law in laws()[:4]:
            found.append({"total": total, "packets": packets, "min": low, "max": high, **law})
    for number, case in enumerate(found):
        case["seed"] = hashlib.sha256(f"far {number}".encode()).hexdigest()
    return found


def terms_of(case: dict) -> dict:
    """The arguments of ``split`` of a stored case."""
    names = ("total", "packets", "law", "min", "max", "concentration")
    return {name: case[name] for name in names if name in case} | {"seed": bytes.fromhex(case["seed"])}


def main() -> None:
    split_cases = cases()
    for case in split_cases:
        amounts = reference.split(**terms_of(case)).tolist()
        if len(amounts) <= WRITTEN_OUT:
            case["amounts"] = amounts
        else:
            case["sha256"] = digest(amounts)
    packet_cases = far_cases()
    for case in packet_cases:
        packets = case["packets"]
        case["amounts"] = {
            str(packet): reference.packet_amount(packet, **terms_of(case))
            for packet in (0, 1, packets // 3, packets // 2, packets - 2, packets - 1)
        }
    document = {"split": split_cases, "packet_amount": packet_cases}
    lines = [
        f'"{name}": [\n' + ",\n".join(json.dumps(case) for case in found) + "\n]" for name, found in document.items()
    ]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
