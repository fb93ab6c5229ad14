"""The tables of jobs, the same in SQLite and PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
ID = sa.String(64)
OWNER = sa.Text

jobs = sa.Table(
    "atelier_jobs",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("owner", OWNER, nullable=False),
    sa.Column("kind", ID, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("ttl", sa.Double, nullable=False),
    sa.Column("deadline", sa.Double, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("progress", sa.Double, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("rows_done", sa.Integer, nullable=False),
    # Who works on it, which attempt that is, and which place in the queue it has been given when;
    # its turn among the jobs of one priority: the owners' jobs take turns.
    sa.Column("holder", ID),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("dispatch", sa.Integer, nullable=False),
    sa.Column("dispatched", sa.Double, nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
    # What its files take: room is kept for them before they are there.
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("tidy", sa.Boolean, nullable=False),
    # Plain JSON.
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("checkpoint", sa.Text),
    sa.Column("outcome", sa.Text),
    sa.Column("error", sa.Text),
    sa.Index("atelier_jobs_by_owner", "owner", "created", "id"),
    sa.Index("atelier_jobs_by_status", "status", "dispatched"),
    sa.Index("atelier_jobs_by_expiry", "expires"),
    sa.Index("atelier_jobs_by_holder", "holder"),
)

keys = sa.Table(
    "atelier_idempotency_keys",
    metadata,
    sa.Column("owner", OWNER, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", ID, nullable=False),
    sa.Column("job", ID),
    sa.Column("created", sa.Double, nullable=False),
)

replicas = sa.Table(
    "atelier_replicas",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
)

changes = sa.Table(
    "atelier_job_changes",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due", sa.Double, nullable=False),
    sa.Index("atelier_job_changes_by_due", "due"),
)
