"""`python -m edgectl` is `edgectl`."""

from edgectl.cli.app import main

main()
