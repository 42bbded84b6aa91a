"""Where the fault proxy stands: between clients and shards, between the processes and the broker, and between the store
and PostgreSQL.
"""

import asyncio
from pathlib import Path

from tests.fault.torture.inside import Inside
from tests.fault.torture.proxy import Proxy
from tests.integration.system import System, SystemFailed, free_port

SITE = Path(__file__).parent / "site"


class Ways:
    """The addresses in *home*. With *tcp* the processes meet over tcp, with CURVE keys; else in the file system.

    `clock` is the file with the seconds by which the store's clock is off.
    """

    def __init__(self, home: Path, *, tcp: bool, planted: str) -> None:
        self.clock = home / "clock"
        self.clock.write_text("0")
        self._tcp = tcp
        self._clients = f"127.0.0.1:{free_port()}"
        self._database = home / "database"
        if tcp:
            self._bus, self._broker = (f"127.0.0.1:{free_port()}" for _ in range(2))
        else:
            self._bus, self._broker = str(home / "bus.sock"), str(home / "broker.sock")
        scheme = "tcp" if tcp else "ipc"
        inside = Inside(
            broker_url=f"{scheme}://{self._broker}",
            database_url=f"postgresql://hubbub@/hubbub?host={self._database}",
            clock=str(self.clock),
            planted=planted,
        )
        self.environment = {
            "HUBBUB_BUS_URL": f"{scheme}://{self._bus}",
            "PYTHONPATH": str(SITE),
            "TORTURE": inside.text(),
        }

    async def open(self, proxy: Proxy, system: System) -> None:
        """Let the proxy listen, before the system starts. Raises `SystemFailed`."""
        self._database.mkdir(mode=0o700)
        await proxy.open("clients", self._clients, f"127.0.0.1:{system.port}")
        await proxy.open("bus", self._bus, self._broker)
        postgres = system.settings.postgres().socket_dir / ".s.PGSQL.5432"
        await proxy.open("database", self._database / ".s.PGSQL.5432", postgres)
        if self._tcp:
            code = await asyncio.to_thread(system.command("keys").wait, 60)
            if code != 0:
                raise SystemFailed(f"`hubbub keys` failed\n{system.output()}")

    def of_clients(self, system: System) -> tuple[str, str]:
        """The URLs of the WebSocket: straight, and by way of the proxy."""
        return system.ws, f"ws://{self._clients}/ws"
