"""Who belongs to the fleet and how each node stands: what `edgectl nodes` adds, imports, replaces, shows and explains.

It changes fleet.yaml and the store; what is done to machines is in `edgectl.provisioning`.
"""
