"""``python -m services.cli``: the same as ``atelier``."""

from services.cli import app

app()
