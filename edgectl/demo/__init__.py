"""`edgectl demo`: a small fleet on this machine, by the very commands that an operator types."""
