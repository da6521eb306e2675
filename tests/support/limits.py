"""Limits as they meet each other: of a caller's own of every kind, one of a team that others share, and one that lets nothing pass."""

from proxy.policy.plan import Limit, Rate, Spend

OWN = Limit(
    "tier", ("caller",), requests=(Rate(4, 60), Rate(6, 3600)), tokens=(Rate(50, 60), Rate(40, 60)),
    spend=(Spend(60, "day"), Spend(90, "month")), concurrency=3,
)  # fmt: skip
TEAM = Limit("team", ("team",), requests=(Rate(7, 60),), spend=(Spend(200, "total"),), is_shared=True)
NONE = Limit("closed", ("caller",), tokens=(Rate(0, 60),))
