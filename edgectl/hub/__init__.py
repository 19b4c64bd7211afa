"""The receiver: an HTTP face of the fleet's store, for nodes that nobody can reach."""
