"""Other ways to serve the same trained network, each at reasonable settings."""
