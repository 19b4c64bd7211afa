"""What every machine of the fleet shall run, and the ways there: chooses packages, bootstraps, upgrades, configures and
removes on many machines, with the parts that `edgectl.machine` has for one.
"""
