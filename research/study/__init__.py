"""The study: the paper's tables and figure in miniature, on small worlds whose difficulty is known exactly.

`families`, `world`, `ceilings`, `render`, `texts`, `make` are the world; `stages`, `plan`, `cells` say what is run;
`run` runs it; `stats`, `claims`, `report` evaluate it. The protocol and the results are in README.md.
"""
