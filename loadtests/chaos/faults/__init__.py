"""Every fault, in the order in which they are tried: those of one stage follow one another."""

from loadtests.chaos.fault import Fault
from loadtests.chaos.faults.clients import LyingClients, SlowClients
from loadtests.chaos.faults.clock import ClockJump
from loadtests.chaos.faults.database import DatabaseRestart
from loadtests.chaos.faults.disk import DiskFull
from loadtests.chaos.faults.head import HeadRestart, KilledControl
from loadtests.chaos.faults.killed import KilledEngine, KilledGateway, KilledProxy
from loadtests.chaos.faults.memory import OutOfMemory
from loadtests.chaos.faults.proxy import ProxyReload
from loadtests.chaos.faults.redis import RedisRestart
from loadtests.chaos.faults.stopped import StoppedEngine, StoppedGateway

FAULTS: tuple[type[Fault], ...] = (
    KilledGateway,
    KilledEngine,
    StoppedGateway,
    StoppedEngine,
    OutOfMemory,
    DatabaseRestart,
    ProxyReload,
    KilledProxy,
    SlowClients,
    LyingClients,
    RedisRestart,
    DiskFull,
    HeadRestart,
    KilledControl,
    ClockJump,
)
