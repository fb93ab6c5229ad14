"""The dashboard of models: their speed, their batches, their health."""

from __future__ import annotations

from deploy.grafana.panels import Board, Panel, mean, quantiles, rate

OF_MODEL = 'model=~"$model"'
LOOKUPS = "atelier_prompt_cache_lookups_total"

MODELS = Board(
    "atelier-models",
    "Atelier: models",
    (
        (
            "Speed",
            (
                Panel(
                    "Images",
                    "ops",
                    [
                        (
                            "{{model}} {{task}}",
                            rate("atelier_images_total", "model, task", OF_MODEL),
                        )
                    ],
                    "Rows finished per second.",
                ),
                Panel(
                    "Network evaluations",
                    "ops",
                    [
                        (
                            "{{model}}",
                            rate("atelier_network_evaluations_total", "model", OF_MODEL),
                        )
                    ],
                    "Batches per second, steps and decodes alike.",
                ),
                Panel(
                    "Seconds of a batch",
                    "s",
                    [
                        (
                            "{{model}} {{stage}}",
                            mean("atelier_stage_seconds", "model, stage", OF_MODEL),
                        )
                    ],
                    "Mean time of one prepare, step or decode.",
                ),
                Panel(
                    "Seconds in the queue",
                    "s",
                    quantiles("atelier_queue_seconds", "model", OF_MODEL),
                    "How long rows waited in all between their evaluations.",
                ),
            ),
        ),
        (
            "Batches",
            (
                Panel(
                    "Rows of a batch",
                    "short",
                    [("{{model}}", mean("atelier_batch_rows", "model", OF_MODEL))],
                    "Mean; bounded by where another row no longer pays.",
                ),
                Panel(
                    "Fill",
                    "percentunit",
                    [("{{model}}", mean("atelier_batch_fill_ratio", "model", OF_MODEL))],
                    "Rows over the rows at which another no longer pays.",
                ),
            ),
        ),
        (
            "Health",
            (
                Panel(
                    "Rows by outcome",
                    "ops",
                    [
                        (
                            "{{model}} {{outcome}}",
                            rate("atelier_rows_total", "model, outcome", OF_MODEL),
                        ),
                        (
                            "failed share of {{model}}",
                            f"atelier:rows_failed:ratio_rate5m{{{OF_MODEL}}}",
                        ),
                    ],
                    "expired: its deadline passed; canceled: its client left.",
                ),
                Panel(
                    "Loads",
                    "short",
                    [
                        (
                            "{{model}}",
                            "sum by (model) "
                            f"(increase(atelier_model_load_seconds_count{{{OF_MODEL}}}[1h]))",
                        )
                    ],
                    "Within an hour. A model that comes and goes wants a larger max_loaded.",
                ),
                Panel(
                    "Seconds to load",
                    "s",
                    [("{{model}}", mean("atelier_model_load_seconds", "model", OF_MODEL))],
                    "To open a model, verify it and measure its costs.",
                ),
                Panel(
                    "Bits per dimension",
                    "short",
                    [
                        (
                            "{{model}}",
                            mean("atelier_likelihood_bits_per_dim", "model", OF_MODEL),
                        ),
                        ("{{model}}, an hour", f"atelier:bits_per_dim:mean_rate1h{{{OF_MODEL}}}"),
                    ],
                    "Of images that were judged: it moves when they drift from the training data.",
                ),
                Panel(
                    "Prompts already encoded",
                    "percentunit",
                    [
                        (
                            "{{model}}",
                            rate(LOOKUPS, "model", f'outcome="hit",{OF_MODEL}')
                            + " / "
                            + rate(LOOKUPS, "model", OF_MODEL),
                        )
                    ],
                    "Share of prompts that needed no text encoder.",
                ),
            ),
        ),
    ),
    by_model=True,
)
