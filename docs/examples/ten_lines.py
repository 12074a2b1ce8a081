"""One envelope in memory: claim one by one and as a batch, then prove the outcome.

python docs/examples/ten_lines.py
"""

import numpy as np

import hbcore

engine = hbcore.Engine()  # in memory; Engine("gala.hb") is a file that many processes share
envelope = engine.envelope("20:00", total=20_000, packets=50)  # 200 yuan in fen; get or create

claim = envelope.claim("user-42")  # GRANTED; asked again: REPEATED, with the same packet
if claim:
    print(f"user-42 got {claim.amount} fen: packet {claim.packet}, {claim.status.name}")
answers = envelope.claim_many(np.arange(1000))  # a batch, without the GIL: one row a user
print(f"{np.count_nonzero(answers['packet'] >= 0)} of 1000 were in time")
print(engine.audit())  # raises AuditError if anything does not add up
