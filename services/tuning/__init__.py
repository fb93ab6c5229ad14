"""Finding what serves a model better on this machine than what it is served with by default.

Read it from `services.tuning.study`: a configuration is tried in a process of its own (`worker`),
in turn with the defaults; Bayesian optimisation says which to try next; the best few are measured
again (`finals`), and what still beats the defaults becomes a config that `atelier serve` takes.
"""
