"""Faults under open-loop load: what is lost, done twice, wrong or untyped, and how soon it ends."""
