"""Discrete-event simulation of a pool's replicas, its routers and its autoscaling.

Decisions are the service's own code: which rows step together (`services.runtime.batching`), which
replica a call goes to (`services.serving.replica_loads`), how many replicas there should be
(`services.serving.autoscaling`). What is simulated is time.
"""
