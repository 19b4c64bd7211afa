"""History to train on: what a node's source delivers, recorded into Parquet."""
