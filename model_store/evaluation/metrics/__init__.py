"""What generated images are measured by: distances, manifolds, fidelity, disentanglement."""
