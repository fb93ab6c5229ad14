"""``atelier evaluate``: what can be measured of a model, as it is served."""
