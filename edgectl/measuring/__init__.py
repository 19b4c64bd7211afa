"""What a machine can do with a model: `edgectl bench`."""
