"""How a node and its operator come to know each other: pinned host keys, certificates, invites, and what a machine gets
that redeems one. The keys themselves are in `edgectl.trust`.
"""
