"""`edgectl nodes`: a file per group of verbs; importing one registers its verbs, in the order of ``--help``."""

from __future__ import annotations

from edgectl.cli.nodes import (
    allowing,
    certify,
    check,
    importing,
    inviting,
    machines,
    members,
    reasons,
    replacing,
    tokens,
    trust,
)
from edgectl.cli.nodes.app import app

__all__ = [
    "allowing",
    "app",
    "certify",
    "check",
    "importing",
    "inviting",
    "machines",
    "members",
    "reasons",
    "replacing",
    "tokens",
    "trust",
]
