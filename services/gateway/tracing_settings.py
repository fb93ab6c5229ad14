"""What an operator may set about traces."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class TracingSettings(BaseModel):
    """What `OpenTelemetry's own variables`_ leave open: those say where spans go, and how many.

    .. _OpenTelemetry's own variables:
        https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/

    Attributes:
        step_spans: most spans of single network evaluations below each ``atelier.steps``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step_spans: Annotated[int, Field(ge=0, le=1000)] = 0
