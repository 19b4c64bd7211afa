"""What goes out from a node by itself, for nodes that nobody can reach: `links` puts it together."""
