"""The models: whether they are what was stored, who vouches for them, and who can change them."""

from __future__ import annotations

import os

from model_store.signing import trusted_keys
from model_store.store import Store, default_root
from services.cli.checks.finding import Finding, Surroundings
from services.core.errors import AtelierError, UntrustedModel


def check_store(_: Surroundings) -> list[Finding]:
    """Every model's files against their digests, and the user's folder."""
    store = Store(default_root(os.environ))
    names = store.ids()
    if not names:
        why, advice = "the built-in catalog is missing", "install again, or `atelier models add`"
        return [Finding("broken", "models", "none", why, advice)]
    bad = {name: store.verify(name) for name in names}
    found = [
        Finding(
            "broken",
            f"model {name}",
            problems[0].problem,
            "it is never served like this",
            "restore it, or remove and add it",
        )
        for name, problems in bad.items()
        if problems
    ]
    whole = [name for name in names if not bad[name]]
    if whole:
        found.append(Finding("ok", "models", f"every file is as stored: {', '.join(whole)}"))
    root = store.user.root
    if root.is_dir() and root.stat().st_mode & 0o022:
        why, advice = "others on this machine could put models there", f"chmod go-w '{root}'"
        text = f"{root} can be written by others"
        found.append(Finding("warning", "store", text, why, advice))
    return found


def check_signatures(_: Surroundings) -> list[Finding]:
    """Whether somebody vouches for the user's models, where that is asked for."""
    try:
        trust = trusted_keys()
    except AtelierError as error:
        advice = "mend ATELIER_MODELS__PUBLIC_KEYS"
        return [Finding("broken", "model keys", error.message, "nothing is served", advice)]
    root = default_root(os.environ)
    own = list(Store(root).user.ids())
    if trust is None:
        if not own:
            return [Finding("ok", "signatures", "no models beside the catalog")]
        text = f"none asked for of {', '.join(own)}"
        why = "whoever can write to the store decides what is served"
        advice = "`atelier models sign`, and set ATELIER_MODELS__PUBLIC_KEYS"
        return [Finding("note", "signatures", text, why, advice)]
    store, unsigned = Store(root, trust=trust), []
    for name in own:
        try:
            store.get(name)
        except UntrustedModel:
            unsigned.append(name)
        except AtelierError:
            continue  # the check of the store tells
    if unsigned:
        why, advice = "such are not served", f"atelier models sign {unsigned[0]}"
        text = f"none of the trusted keys signed {', '.join(unsigned)}"
        return [Finding("warning", "signatures", text, why, advice)]
    return [Finding("ok", "signatures", f"all {len(own)} of your models are signed")]
