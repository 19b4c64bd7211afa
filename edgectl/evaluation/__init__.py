"""How good a detector is, measured as a node would run it: labelled corpora in, figures and pages out.

`corpora` read labelled series; `replaying` runs a recipe or bundle on them through the agent's own engine; `baselines`
gives what any detector must beat; `nab`, `events`, `ranges` and `intervals` score without any I/O; `judging` puts one
series' scores together, `running` all of them, and `tables` and `pages` show them.
"""
