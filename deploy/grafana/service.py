"""The dashboard of the service: objectives, requests, devices, jobs and policies."""

from __future__ import annotations

from deploy.grafana.panels import Board, Panel, quantiles, rate

WORK = 'route!~"/livez|/readyz|/metrics|unmatched"'
"""Requests other than those of machines that look after the service."""
WINDOWS = ("5m", "1h", "6h", "3d")

SERVICE = Board(
    "atelier-service",
    "Atelier: service",
    (
        (
            "Objectives",
            (
                Panel(
                    "Requests that fail",
                    "percentunit",
                    [(window, f"atelier:request_errors:ratio_rate{window}") for window in WINDOWS],
                    "Of all but those whose client left; the objective is 0.1% over 30 days.",
                ),
                Panel(
                    "Requests that take more than 10 seconds",
                    "percentunit",
                    [(window, f"atelier:request_slow:ratio_rate{window}") for window in WINDOWS],
                    "Of images, likelihoods and latents; the objective is 5% over 30 days.",
                ),
            ),
        ),
        (
            "Requests",
            (
                Panel(
                    "Requests by status",
                    "reqps",
                    [
                        (
                            "{{code}}",
                            rate("atelier_requests_total", "code", WORK),
                        )
                    ],
                    "Answers per second.",
                ),
                Panel(
                    "Seconds to answer",
                    "s",
                    quantiles("atelier_request_seconds", "route", WORK),
                    "From a request's arrival to the end of its answer.",
                ),
                Panel(
                    "Refused, by reason",
                    "reqps",
                    [
                        (
                            "{{reason}}",
                            rate("atelier_rejected_total", "reason"),
                        ),
                        ("for want of room", "sum(atelier:refused:rate5m)"),
                    ],
                    "queue_full and deadline_unmeetable mean that devices are short.",
                ),
                Panel(
                    "Withdrawn, by whom",
                    "reqps",
                    [
                        (
                            "{{where}}",
                            rate("atelier_canceled_total", "where"),
                        )
                    ],
                    "Accepted work that was given up: rows leave within one evaluation.",
                ),
            ),
        ),
        (
            "Devices",
            (
                Panel(
                    "Accepted work",
                    "s",
                    [("device seconds", "sum(atelier_queue_device_seconds)")],
                    "Predicted device time of what has been accepted; bounded by queue_seconds.",
                ),
                Panel(
                    "Images in flight",
                    "short",
                    [("{{state}}", "sum by (state) (atelier_trajectories)")],
                    "Rows that are accepted and unfinished.",
                ),
                Panel(
                    "Memory",
                    "bytes",
                    [("{{instance}}", "sum by (instance) (atelier_device_memory_bytes)")],
                    "Of CUDA devices, or resident where none is used. It should not climb.",
                ),
                Panel(
                    "Images",
                    "ops",
                    [("{{model}} {{task}}", "sum by (model, task) (atelier:images:rate5m)")],
                    "Rows finished per second.",
                ),
            ),
        ),
        (
            "Jobs and policies",
            (
                Panel(
                    "Jobs",
                    "short",
                    [("{{state}}", "max by (state) (atelier_jobs)")],
                    "As the database has them; every replica tells of all.",
                ),
                Panel(
                    "Decisions of policies",
                    "ops",
                    [
                        (
                            "{{policy}} {{decision}}",
                            rate("atelier_safety_decisions_total", "policy, decision"),
                        )
                    ],
                    "`failed` means that a policy gave none of its own.",
                ),
            ),
        ),
    ),
)
