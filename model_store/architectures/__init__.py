"""Torch modules of the built-in models: what a manifest's ``architecture`` name stands for."""
