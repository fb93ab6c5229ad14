"""The FastAPI application over a backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import FastAPI
from opentelemetry.trace import Tracer
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse

from services.core.backend import Backend
from services.core.decoder import Decoder
from services.gateway.audit_log import AuditLog
from services.gateway.auditing import Audit
from services.gateway.auth import ApiKeys
from services.gateway.docs import docs_page
from services.gateway.documents import document_routes
from services.gateway.errors import install_error_handlers
from services.gateway.exchange import Gateway, InFlight, Withdraw, nowhere
from services.gateway.head import Head
from services.gateway.health import health_routes, status_routes
from services.gateway.huggingface import huggingface_routes
from services.gateway.job_auditing import audit_ends
from services.gateway.jobs import charge_owner, job_routes, life_of
from services.gateway.metering import Meter
from services.gateway.metrics import GatewayMetrics
from services.gateway.middleware import BodyLimit, Observation, RequestIdentity
from services.gateway.models import model_routes
from services.gateway.native import native_routes
from services.gateway.openai_images import openai_image_routes
from services.gateway.openapi import DescribedApp
from services.gateway.predictions import prediction_routes
from services.gateway.quotas import QuotaLedger
from services.gateway.reference import reference_routes
from services.gateway.replicate_models import replicate_model_routes
from services.gateway.requests import request_routes
from services.gateway.reviews import review_routes
from services.gateway.settings import GatewaySettings
from services.gateway.tracing import RequestSpan
from services.gateway.triton import triton_health_routes, triton_routes
from services.gateway.webhooks import webhook_routes, webhooks_of
from services.gateway.workbench import packaged_page, page_routes
from services.jobs.interface import Jobs
from services.jobs.outgoing import Outgoing
from services.policies.guard import guarded
from services.policies.loading import BUILT_IN, Factory
from services.provenance.stamping import OFF, Stamped, open_stamp

VERSION = "1"
DESCRIPTION = "Generation, editing and likelihood from trained image generators."


def create_app(  # noqa: PLR0913 - each is a decision of its own, made by the caller
    backend: Backend,
    settings: GatewaySettings,
    *,
    metrics: GatewayMetrics,
    in_flight: InFlight | None = None,
    elsewhere: Withdraw = nowhere,
    tracer: Tracer | None = None,
    policies: Mapping[str, Factory] = BUILT_IN,
    make_jobs: Callable[[Backend], Jobs] | None = None,
    decoder: Decoder | None = None,
) -> FastAPI:
    """Build the application.

    Args:
        backend: where calls are sent; nothing else reaches an engine.
        settings: limits, keys and defaults.
        metrics: the gateway's series, in the registry that ``/metrics`` shows.
        in_flight: knows the requests that this process answers; made here when absent.
        elsewhere: withdraws a request that another replica of this gateway answers.
        tracer: makes a span of each request; none are made when absent.
        policies: what the settings' rules may use, besides what is plugged in.
        make_jobs: gives the jobs whose work a backend does; without it there are none.
        decoder: of uploaded images, where policies look at them; in this process when absent.
    """
    stamp = open_stamp(settings.provenance, settings.provenance_folder)
    if stamp is not None:
        # Before all else that stands in front of the engines: what is kept for later is signed too.
        backend = Stamped(backend, stamp)
    policed = guarded(
        backend,
        settings.policies,
        settings.key_path.parent,
        count=metrics.decided,
        decoder=decoder or Decoder(settings.image_limits),
        factories=policies,
    )
    audit = AuditLog(settings.audit_folder, settings.audit) if settings.audit.enabled else None
    meter = Meter(QuotaLedger(settings.quota_path))
    jobs = None if make_jobs is None else make_jobs(policed)
    gateway = Gateway(
        policed,
        settings,
        metrics,
        meter,
        in_flight or InFlight(),
        elsewhere,
        provenance=OFF if stamp is None else stamp.status,
        jobs=jobs,
        foresee=policed.foresee,
    )
    app = DescribedApp(
        title="Atelier",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=None if jobs is None else life_of(jobs),
        middleware=[
            Middleware(RequestIdentity, in_flight=gateway.in_flight, emit=settings.emit_request_id),
            Middleware(RequestSpan, tracer=tracer),
            Middleware(Observation, metrics=metrics),
            Middleware(Audit, log=audit),
            Middleware(BodyLimit, settings=settings, metrics=metrics),
            Middleware(Head),
        ],
    )
    app.state.outgoing = Outgoing(
        allow_private=settings.fetch_private, seconds=settings.fetch_timeout
    )
    install_error_handlers(app, metrics, max_retry_after=settings.max_retry_after)
    keys = ApiKeys(settings, meter)
    # Asked for most, so looked at first; and not included, since FastAPI matches a route that is
    # included twice.
    app.router.routes.extend(native_routes(gateway, keys).routes)
    app.include_router(model_routes(gateway, keys))
    app.include_router(document_routes(gateway, keys))
    app.include_router(reference_routes(gateway, keys))
    app.include_router(openai_image_routes(gateway, keys))
    app.include_router(request_routes(gateway, keys))
    if jobs is not None:
        if audit is not None:
            audit_ends(jobs, audit)
        charge_owner(gateway)
        hooks = webhooks_of(jobs, settings.webhooks)
        app.include_router(job_routes(gateway, keys))
        app.include_router(webhook_routes(gateway, keys, hooks))
        app.include_router(prediction_routes(gateway, keys))
        app.include_router(replicate_model_routes(gateway, keys))
    app.include_router(review_routes(gateway, keys, policed.reviews))
    app.include_router(status_routes(gateway, keys))
    app.include_router(health_routes(gateway))
    app.include_router(huggingface_routes(gateway, keys))
    app.include_router(triton_routes(gateway, keys))
    app.include_router(triton_health_routes(gateway))
    app.include_router(page_routes(packaged_page()))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return docs_page(app)

    return app
