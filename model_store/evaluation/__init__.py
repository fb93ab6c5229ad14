"""The numbers on a model's card, measured on held-out data."""
