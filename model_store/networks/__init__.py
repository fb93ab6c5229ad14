"""Networks as plain functions on tensors, however they were exported."""
