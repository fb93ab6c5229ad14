"""Cores: how many, how fast they are let run, and who else is on them."""

from __future__ import annotations

import os
import platform

from services.cli.checks.finding import Finding, Surroundings
from services.cli.checks.machine import cpu_flags, words_of
from services.core.cores import bound_cores, usable_cores

SLOW_GOVERNORS = frozenset(("powersave", "conservative", "userspace"))
THROTTLED_SHARE = 0.05
"""Of the periods of a control group; in more of them, what is stopped for is felt."""


def check_processor(surroundings: Surroundings) -> list[Finding]:
    """Cores, vector units, and who else is using them."""
    cores = usable_cores()
    wanted = ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "asimd", "sve")
    flags = [flag for flag in wanted if flag in cpu_flags(surroundings.root)]
    vectors = ", ".join(flags) or "vector units unknown"
    found = [Finding("ok", "cpu", f"{cores} usable cores, {platform.machine()}, {vectors}")]
    if platform.machine() == "x86_64" and "avx2" not in flags:
        why = "networks run several times slower"
        found = [Finding("warning", "cpu", f"{cores} cores without AVX2", why, "use another host")]
    load = os.getloadavg()[0]
    if load > cores:
        why = "other programs share the cores; latencies will vary"
        advice = "serve, measure and tune on a machine of its own"
        found.append(Finding("warning", "load", f"{load:.1f} on {cores} cores", why, advice))
    return found


def check_governor(surroundings: Surroundings) -> list[Finding]:
    """Whether the kernel holds the cores' frequency down."""
    folder = surroundings.root / "sys/devices/system/cpu"
    names = {words_of(f) for f in sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_governor"))}
    names.discard("")
    # Under intel_pstate "powersave" scales up with load; elsewhere it is the lowest frequency.
    driver = words_of(folder / "cpu0/cpufreq/scaling_driver")
    slow = sorted(names & SLOW_GOVERNORS)
    if not slow or driver in ("intel_pstate", "amd-pstate-epp"):
        return [Finding("ok", "cpu governor", ", ".join(sorted(names)) or "none is set")]
    why = "cores stay at a low frequency however much there is to do"
    advice = "cpupower frequency-set -g performance"
    return [Finding("warning", "cpu governor", ", ".join(slow), why, advice)]


def check_quota(surroundings: Surroundings) -> list[Finding]:
    """The control group's share of the cores, and whether it is what slows the service."""
    root = surroundings.root
    cores = usable_cores(root / "proc/self/cgroup", root / "sys/fs/cgroup")
    bound = len(bound_cores())
    if cores >= bound:
        return [Finding("ok", "cpu quota", "none below the cores that are there")]
    pairs = (line.split() for line in words_of(root / "sys/fs/cgroup/cpu.stat").splitlines())
    rows = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
    periods, stopped = rows.get("nr_periods", 0), rows.get("nr_throttled", 0)
    text = f"{cores} of {bound} cores"
    if periods and stopped > THROTTLED_SHARE * periods:
        why = f"the kernel stopped everything in {100 * stopped / periods:.0f}% of its periods"
        advice = "raise the container's cpu limit, or give its pools fewer `threads`"
        return [Finding("warning", "cpu quota", text, why, advice)]
    return [Finding("note", "cpu quota", text, "networks use no more threads than that")]


def check_threads(surroundings: Surroundings) -> list[Finding]:
    """Whether pools ask for more threads than there are cores."""
    cores = usable_cores()
    asked = surroundings.arguments
    pools = asked.get("pools") or [{"name": "default", "placement": "fused"}]
    found = []
    for pool in pools:
        if int(pool.get("threads") or 0) > cores:
            text = f"pool {pool['name']} asks for {pool['threads']} on {cores} cores"
            why = "it gets as many as there are cores"
            found.append(Finding("note", "threads", text, why, "leave `threads` out"))
    replicas = sum(_replicas(pool, asked) * (int(pool.get("threads") or cores)) for pool in pools)
    if replicas > 2 * cores:
        text = f"up to {replicas} threads of all replicas on {cores} cores"
        why = "evaluations of several replicas at once slow each other down"
        advice = "fewer replicas, or `threads` in each pool, so that the sum is the cores"
        found.append(Finding("warning", "threads", text, why, advice))
    return found or [Finding("ok", "threads", f"at most {cores} an evaluation")]


def _replicas(pool: dict[str, object], arguments: dict[str, object]) -> int:
    if pool.get("placement", "apart") == "fused":
        return int(str(arguments.get("gateway_replicas") or 1))
    return int(str(pool.get("replicas") or 1))
