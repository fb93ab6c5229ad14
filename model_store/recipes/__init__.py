"""How each built-in model was trained: one module each, run with ``python -m``."""
