"""A campaign: a budget, two budgets below it, an envelope in each, and what comes back.

python docs/examples/budget_tree.py
"""

import hbcore

engine = hbcore.Engine()
gala = engine.budget("gala", total=3_000_000)  # a campaign of 30,000 yuan; get or create
evening = gala.budget("evening", total=1_000_000)  # a sub-budget is a hold of its parent
night = gala.budget("night", total=500_000)
first = evening.envelope("20:00", total=200_000, packets=2_000)  # and so is an envelope
last = night.envelope("23:00", total=100_000, packets=500, hold_seconds=600)  # unpaid in ten minutes: it makes way

if first.claim("user-42"):
    first.settle("user-42")  # the payout went through: final
if last.claim("user-42"):
    last.release("user-42")  # the payout failed: the packet goes back, for others or for the same user

print(f"{last.close()} fen go back from 23:00 to {night.stats()}")
print(f"{night.close()} fen go back from night to {gala.stats()}")

hold = gala.reserve("order-17", 5_000)  # money for anything else, under a key of your own
print(f"order-17: {hold.status.name}, and once more: {gala.reserve('order-17', 5_000).status.name}")
print(f"settled: {gala.settle('order-17', 4_200)}")  # the other 800 are available again
print(engine.audit())
