"""Exported models: what they are, how they are found, verified, opened, made and measured."""
