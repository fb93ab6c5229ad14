"""Sampling and likelihood maths on plain tensors: no files, no network protocol, no state."""
