"""The FastAPI application over a backend."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse

from services.core.backend import Backend
from services.gateway.auth import ApiKeys
from services.gateway.docs import docs_page
from services.gateway.errors import install_error_handlers
from services.gateway.exchange import Gateway, InFlight, Withdraw, nowhere
from services.gateway.health import health_routes, status_routes
from services.gateway.huggingface import huggingface_routes
from services.gateway.metering import Meter
from services.gateway.metrics import GatewayMetrics
from services.gateway.middleware import BodyLimit, Observation, RequestIdentity
from services.gateway.models import model_routes
from services.gateway.native import native_routes
from services.gateway.openai_images import openai_image_routes
from services.gateway.openapi import DescribedApp
from services.gateway.quotas import QuotaLedger
from services.gateway.requests import request_routes
from services.gateway.settings import GatewaySettings
from services.gateway.triton import triton_health_routes, triton_routes

VERSION = "1"
DESCRIPTION = "Generation, editing and likelihood from trained image generators."


def create_app(
    backend: Backend,
    settings: GatewaySettings,
    *,
    metrics: GatewayMetrics,
    in_flight: InFlight | None = None,
    elsewhere: Withdraw = nowhere,
) -> FastAPI:
    """Build the application.

    Args:
        backend: where calls are sent; nothing else reaches an engine.
        settings: limits, keys and defaults.
        metrics: the gateway's series, in the registry that ``/metrics`` shows.
        in_flight: knows the requests that this process answers; made here when absent.
        elsewhere: withdraws a request that another replica of this gateway answers.
    """
    meter = Meter(QuotaLedger(settings.quota_path))
    gateway = Gateway(backend, settings, metrics, meter, in_flight or InFlight(), elsewhere)
    app = DescribedApp(
        title="Atelier",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestIdentity, in_flight=gateway.in_flight, emit=settings.emit_request_id),
            Middleware(Observation, metrics=metrics),
            Middleware(BodyLimit, settings=settings, metrics=metrics),
        ],
    )
    install_error_handlers(app, metrics, max_retry_after=settings.max_retry_after)
    keys = ApiKeys(settings, meter)
    app.include_router(model_routes(gateway, keys))
    app.include_router(native_routes(gateway, keys))
    app.include_router(openai_image_routes(gateway, keys))
    app.include_router(request_routes(gateway, keys))
    app.include_router(status_routes(gateway, keys))
    app.include_router(health_routes(gateway))
    app.include_router(huggingface_routes(gateway, keys))
    app.include_router(triton_routes(gateway, keys))
    app.include_router(triton_health_routes(gateway))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return docs_page(app)

    return app
