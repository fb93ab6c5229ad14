"""Load on the real service, and on peers in the same run. Figures are kept in ``results/``."""
