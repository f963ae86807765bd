"""The study: the paper's tables and figure in miniature, on small worlds whose difficulty is known exactly.

`families`, `world`, `texts`, `views` describe the worlds, which `clipvip.data.synthetic` draws and writes; `ceilings`
is what observers without error reach; `stages`, `plan`, `cells` say what is run; `run` runs it; `records` keeps it;
`stats`, `claims`, `report` evaluate it. The protocol and the results are in README.md.
"""
