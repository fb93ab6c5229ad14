"""From a rule's settings to a policy: built in, or an entry point of another package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import MappingProxyType

from services.core.errors import InvalidParameter
from services.policies.block_list import BlockList
from services.policies.interface import ImagePolicy, Policy, PromptPolicy
from services.policies.settings import PolicyRule

GROUP = "atelier.policies"

Factory = Callable[..., Policy]
"""A policy's class, or whatever makes one of its settings."""

BUILT_IN: Mapping[str, Factory] = MappingProxyType({"block_list": BlockList})
"""The policies that need no engine; `services.serving` adds those that do."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rule with its policy."""

    rule: PolicyRule
    policy: Policy


def load(rules: Sequence[PolicyRule], factories: Mapping[str, Factory] = BUILT_IN) -> list[Loaded]:
    """Make every rule's policy.

    Raises:
        InvalidParameter: there is none of that name, it does not take the settings, or it is no
            policy.
    """
    return [Loaded(rule, _made(rule, factories)) for rule in rules]


def _made(rule: PolicyRule, factories: Mapping[str, Factory]) -> Policy:
    factory = factories.get(rule.use) or _plugged_in(rule.use, factories)
    try:
        policy = factory(**rule.settings)
    except TypeError as error:
        raise InvalidParameter(
            f"policy '{rule.name}' does not take its settings: {error}"
        ) from error
    except InvalidParameter as error:
        raise InvalidParameter(f"policy '{rule.name}': {error.message}") from error
    if not isinstance(policy, PromptPolicy | ImagePolicy):
        raise InvalidParameter(
            f"'{rule.use}' makes a {type(policy).__name__}, which is neither a PromptPolicy nor an "
            "ImagePolicy of services.policies.interface"
        )
    return policy


def _plugged_in(name: str, factories: Mapping[str, Factory]) -> Factory:
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted({*factories, *found}))
        raise InvalidParameter(f"there is no policy '{name}'; there are {known}")
    factory: Factory = found[name].load()
    return factory
