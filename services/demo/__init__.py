"""``make demo``: the service started, asked for something of every family, shown, and stopped."""
