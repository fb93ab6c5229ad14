"""What `atelier doctor` looks at: each check reports what it found, why it matters and what to do.

None repairs anything, and each can be run alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.cli.checks.access import check_access, check_port, check_switches, check_user
from services.cli.checks.finding import Check, Finding, Level, Surroundings
from services.cli.checks.origin import check_provenance
from services.cli.checks.processor import (
    check_governor,
    check_processor,
    check_quota,
    check_threads,
)
from services.cli.checks.records import check_audit, check_jobs, check_retention
from services.cli.checks.room import check_disk, check_memory, check_models_fit, check_open_files
from services.cli.checks.software import check_onnxruntime, check_python, check_ray, check_torch
from services.cli.checks.stored import check_signatures, check_store
from services.cli.checks.tuned import check_tuning

CHECKS: Mapping[str, Check] = {
    "python": check_python,
    "torch": check_torch,
    "onnxruntime": check_onnxruntime,
    "ray": check_ray,
    "cpu": check_processor,
    "cpu governor": check_governor,
    "cpu quota": check_quota,
    "threads": check_threads,
    "memory": check_memory,
    "memory for models": check_models_fit,
    "disk": check_disk,
    "open files": check_open_files,
    "models": check_store,
    "signatures": check_signatures,
    "tuning": check_tuning,
    "port": check_port,
    "access": check_access,
    "user": check_user,
    "switches": check_switches,
    "provenance": check_provenance,
    "jobs": check_jobs,
    "retention": check_retention,
    "audit": check_audit,
}

__all__ = ["CHECKS", "Check", "Finding", "Level", "Surroundings", "check_provenance"]
