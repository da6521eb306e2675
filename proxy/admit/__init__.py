"""Admission and accounting: what a call may take is checked, held and settled here. Never talks to a provider.

`admission` is the way of a call: `lines` let it pass, `limits` and `wording` say no, `counters` over `accounts`, `windows` and
`periods` count. `embedded` is the store of one sidecar: `journal` (the truth), `replay`, `sqlite` (its index) and `ledger` (asks it).
"""

from proxy.admit.embedded import EmbeddedState, Recovery
from proxy.admit.keys import keys_offline
from proxy.admit.ledger import Reading, read_attempts, read_billed, read_dearest, read_failed, read_rows, read_usage
from proxy.admit.place import StateProblem, boot_id

__all__ = [
    "EmbeddedState",
    "Reading",
    "Recovery",
    "StateProblem",
    "boot_id",
    "keys_offline",
    "read_attempts",
    "read_billed",
    "read_dearest",
    "read_failed",
    "read_rows",
    "read_usage",
]
