"""What is kept: jobs, and who asked for what."""

from __future__ import annotations

from services.cli.checks.access import active_keys
from services.cli.checks.finding import Finding, Surroundings

DAY = 86_400.0
LONG_DAYS = 30
CLUSTER_VARIABLES = ("RAY_ADDRESS", "KUBERNETES_SERVICE_HOST")


def check_jobs(surroundings: Surroundings) -> list[Finding]:
    """Whether all machines of a service see the same jobs."""
    settings = surroundings.settings
    if settings is None or not settings.jobs.enabled:
        return []
    url = settings.jobs.database_url
    shared = url is not None and not url.startswith("sqlite")
    signs = [name for name in CLUSTER_VARIABLES if surroundings.environment.get(name)]
    if surroundings.document.get("proxy_location") == "EveryNode":
        signs.append("proxy_location: EveryNode")
    if not signs:
        return [Finding("ok", "jobs", "in PostgreSQL" if shared else "in SQLite, on one machine")]
    if not shared:
        text = f"in SQLite, and there may be several machines ({', '.join(signs)})"
        why = "a job that one machine took is unknown to the others"
        advice = "ATELIER_JOBS__DATABASE_URL=postgresql://..."
        return [Finding("warning", "jobs", text, why, advice)]
    if settings.jobs.artefacts_url is None:
        text = f"files in {settings.jobs_folder}, and there may be several machines"
        why = "an image that one machine wrote is missing on the others"
        advice = "ATELIER_JOBS__ARTEFACTS_URL=s3://..., or a folder that all of them mount"
        return [Finding("warning", "jobs", text, why, advice)]
    return [Finding("ok", "jobs", "in PostgreSQL, files where all machines see them")]


def check_retention(surroundings: Surroundings) -> list[Finding]:
    """How long jobs and their images are kept."""
    settings = surroundings.settings
    if settings is None or not settings.jobs.enabled:
        return []
    days = settings.jobs.max_ttl / DAY
    text = f"jobs and their images for up to {days:g} days"
    if days > LONG_DAYS:
        why = "prompts and images of people are kept for as long"
        advice = "lower ATELIER_JOBS__MAX_TTL to what is needed"
        return [Finding("note", "retention", text, why, advice)]
    return [Finding("ok", "retention", text)]


def check_audit(surroundings: Surroundings) -> list[Finding]:
    """Whether it can be told later who asked for what."""
    settings = surroundings.settings
    if settings is None:
        return []
    if settings.audit.enabled:
        if settings.audit.prompts:
            why = "what people wrote is kept until the files are removed, which nothing here does"
            advice = "unset ATELIER_AUDIT__PROMPTS, or remove old files on a schedule"
            return [Finding("note", "audit", "on, with prompts", why, advice)]
        return [Finding("ok", "audit", f"on, in {settings.audit_folder}")]
    count = len(settings.api_keys) + active_keys(settings.key_path)
    if count or settings.oidc is not None:
        why = "there are callers to tell apart, and nothing says later who did what"
        return [Finding("note", "audit", "off", why, "ATELIER_AUDIT__ENABLED=true")]
    return [Finding("ok", "audit", "off; there is nobody to tell apart")]
