"""The fleet state store: what the operator's side remembers between two commands.

`Store` opens one database and offers a part per concern; each method is one transaction. It keeps values and decides
nothing: what a state means is in `edgectl.core`.

Example::

    with Store("sqlite:///.edgectl/state.db", workspace.root) as store:
        store.nodes.save(report, now_ns)
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from edgectl.store.alerts import Alerts
from edgectl.store.credentials import Credentials
from edgectl.store.engine import Database
from edgectl.store.enrolments import Enrolments
from edgectl.store.findings import Findings
from edgectl.store.invites import Invites
from edgectl.store.nodes import Nodes
from edgectl.store.orders import Orders
from edgectl.store.rollouts import Rollouts


class Store:
    """`url` as SQLAlchemy has it; a relative SQLite path is below `root`."""

    def __init__(self, url: str, root: Path) -> None:
        self._database = Database(url, root)
        self.nodes = Nodes(self._database)
        self.alerts = Alerts(self._database)
        self.rollouts = Rollouts(self._database)
        self.findings = Findings(self._database)
        self.orders = Orders(self._database)
        self.credentials = Credentials(self._database)
        self.invites = Invites(self._database)
        self.enrolments = Enrolments(self._database)

    def open(self) -> Store:
        """Connect and bring the tables up to date. Raises as `Database.open`."""
        self._database.open()
        return self

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Store:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
