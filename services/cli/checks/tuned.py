"""Whether models are served by what was measured on this machine."""

from __future__ import annotations

import os

from pydantic import ValidationError

from services.cli.checks.finding import Finding, Surroundings
from services.core.errors import ModelError, ModelNotFound


def check_tuning(surroundings: Surroundings) -> list[Finding]:
    """Tunings of the config: absent, of other hardware, or of other files of the model."""
    from model_store.store import Store, default_root  # noqa: PLC0415 - torch takes seconds
    from model_store.versions import digest_of  # noqa: PLC0415 - as above
    from services.serving.settings import Deployment  # noqa: PLC0415 - as above
    from services.serving.tuned import hardware  # noqa: PLC0415 - as above

    try:
        deployment = Deployment.model_validate(surroundings.arguments)
    except ValidationError as error:
        why, advice = "the service does not start", f"mend {surroundings.config}"
        return [Finding("broken", "config", str(error), why, advice)]
    found = []
    store = Store(default_root(os.environ))
    for pool in deployment.pools:
        for name, tuning in pool.tuning.items():
            subject = f"tuning of {name}"
            try:
                digest = digest_of(store.get(name))
            except (ModelNotFound, ModelError) as error:
                why, advice = "the service does not start", "remove it from the config"
                found.append(Finding("broken", subject, error.message, why, advice))
                continue
            advice = f"atelier tune {name} --objective throughput"
            if tuning.measured is None:
                why = "nobody knows whether it is better here"
                found.append(Finding("note", subject, "set by hand", why, advice))
            elif tuning.measured.hardware != hardware(pool):
                text = f"measured on {tuning.measured.hardware}, this is {hardware(pool)}"
                why = "it may be slower here than the defaults"
                found.append(Finding("warning", subject, text, why, advice))
            elif tuning.measured.model != digest:
                text = "measured with other files of the model"
                why = "it may be slower, or worse, with these"
                found.append(Finding("warning", subject, text, why, advice))
            else:
                text = f"measured here, {tuning.measured.at:%Y-%m-%d}"
                found.append(Finding("ok", subject, text))
    if found:
        return found
    why = "batches and threads follow short trials at load, steps and samplers the models' makers"
    advice = "atelier tune MODEL --objective throughput, for the models that are used most"
    return [Finding("note", "tuning", "none", why, advice)]
