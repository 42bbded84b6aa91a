"""Every check by its name, in the order in which they are told."""

from collections.abc import Callable

from hubbub.doctor import database, machine, network
from hubbub.doctor.finding import Finding
from hubbub.settings import Settings

Check = Callable[[Settings], Finding]

CHECKS: dict[str, Check] = {
    "python": machine.python,
    "data directory": machine.data_directory,
    "free space": machine.free_space,
    "secrets": machine.secrets,
    "token keys": machine.token_keys,
    "bus keys": machine.bus_keys,
    "open files": machine.open_files,
    "programs": machine.programs,
    "database": database.reachable,
    "durability": database.durable,
    "schema": database.schema,
    "pooler": database.pooler,
    "clocks": database.clocks,
    "port": network.port,
    "ready": network.ready,
    "page": network.page,
    "exposure": network.exposure,
}
