"""One id follows a message through the logs of all processes."""

from pathlib import Path

from tests.integration.client import connection
from tests.integration.system import running

STEPS = {
    "shard forwarded",
    "broker routing_request",
    "broker request_routed",
    "store sequencing",
    "store committing",
    "store committed",
    "broker routing_event",
    "broker event_routed",
    "shard applying",
    "shard acknowledged",
}


async def test_one_id_through_all_processes(tmp_path: Path) -> None:
    with running(tmp_path / "traced", env={"HUBBUB_LOG_LEVEL": "debug", "HUBBUB_LOG_FORMAT": "json"}) as system:
        # Both shards have somebody: the kernel spreads connections, so a few are enough.
        async with connection(system.ws, "trace-ann") as ann:
            for _ in range(8):
                await ann.say("follow me", "trace-ben")
        steps: dict[str, set[str]] = {}

        def complete() -> bool:
            steps.clear()
            for program in ("shard-0", "shard-1", "broker", "store"):
                for line in system.log(program):
                    if "trace" in line:
                        steps.setdefault(line["trace"], set()).add(f"{program.split('-')[0]} {line['event']}")
            return len(steps) == 8 and all(len(found) == len(STEPS) for found in steps.values())

        system.until(complete, 10, "all steps logged")
        for found in steps.values():
            assert found == STEPS
