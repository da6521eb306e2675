"""Opens the state that the policy names: of this sidecar alone, or of a fleet over a journal of its own. Serves no call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.admit import EmbeddedState, boot_id
from proxy.admit.fleet.address import Address
from proxy.policy.plan import Rulebook
from proxy.ports import Clock, Store

if TYPE_CHECKING:
    from proxy.admit.fleet.cluster import ClusterState
    from proxy.admit.fleet.state import SharedState


@dataclass(frozen=True, slots=True)
class Fleet:
    """A shared state, and where the sidecars of this user keep their journals."""

    address: Address
    home: Path

    def __str__(self) -> str:
        return str(self.address)


StatePlace = Path | Fleet | None  # None: in memory


@dataclass(frozen=True, slots=True)
class States:
    """`own`: the journal, the ledger and the keys of this process; what calls take, they take from `store`."""

    own: EmbeddedState
    folder: Path | None
    fleet: SharedState | ClusterState | None = None

    @property
    def store(self) -> Store:
        return self.own if self.fleet is None else self.fleet

    def start(self, tell: Callable[..., None]) -> None:
        """`tell` is `Log.event`."""
        if self.fleet is not None:
            self.fleet.start(lambda mode, why: tell("info" if mode == "shared" else "warning", "state mode", mode=mode.value, why=why))

    def told(self, rules: Rulebook) -> None:
        """Of the policy that is live now."""
        self.own.set_max_keys(rules.max_keys)
        if self.fleet is not None:
            self.fleet.set_rules(rules.on_state_down, rules.limits)

    def hear(self, on_job: Callable[[str, bytes], None]) -> None:
        """`on_job` hears what other sidecars saw of the jobs that began here."""
        if self.fleet is not None:
            self.fleet.hear(on_job)

    @property
    def mode(self) -> str | None:
        """shared, local or recovering; None where nothing is shared."""
        return None if self.fleet is None else self.fleet.mode.value

    def problem(self) -> str | None:
        """Why this sidecar cannot serve."""
        if not self.own.is_available:
            return "the ledger cannot be written"
        return None if self.fleet is None else self.fleet.problem

    def figures(self) -> dict[str, Callable[[], int | float]]:
        """For the metrics, by name."""
        fleet = self.fleet
        if fleet is None:
            return {}
        modes = ("shared", "local", "recovering")
        return {"state_mode": lambda: modes.index(fleet.mode), "state_waiting": lambda: fleet.waiting, "state_live": lambda: fleet.live}

    async def close(self) -> None:
        """Everything settled is written and told."""
        try:
            if self.fleet is not None:
                await self.fleet.close()
        finally:
            await self.own.close()


async def open_states(place: StatePlace, rules: Rulebook, clock: Clock) -> States:
    """Raises StateProblem."""
    if isinstance(place, Fleet):
        from proxy.admit.fleet.opening import Asked, open_shared

        asked = Asked(
            place.address,
            place.home,
            rules.namespace,
            rules.time_zone,
            rules.max_keys,
            rules.durability,
            boot_id(),
            rules.on_state_down,
            rules.limits,
        )
        shared, folder = await open_shared(asked, clock)
        return States(shared.own, folder, shared)
    own = await EmbeddedState.open(
        place,
        clock=clock,
        time_zone=rules.time_zone,
        max_keys=rules.max_keys,
        durability=rules.durability,
        boot_id=boot_id(),
    )
    return States(own, place)
