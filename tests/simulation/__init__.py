"""The whole system under one seeded scheduler and a virtual clock, in a world that breaks it.

What runs here is the product: `shards.hub.Hub`, `broker.router.Router`, `store.core.Store` with the real
coroutines of the writer, the readers and the cursor writer, `hubbub.bus.link.Link`, and the client's rule
(`hubbub.protocol.client`). What is modelled is what lies outside: time (`world`), the coroutines' loop
(`tasks`), ZeroMQ and TCP (`network`), PostgreSQL (`database`), the processes' few lines of glue (`nodes`) and
people (`clients`). `history` makes a plan from a seed, carries it out, ends the faults, waits until the
system is live again, and has `ledger` check the promise, much of which is checked at every step as well.

Some numbers are smaller than in production (slots, pages, rings, chunks, queues), so that rare paths are
walked often; every time is the product's own.

    python -m tests.simulation --histories 100000 --jobs 2
    python -m tests.simulation --seed 4711 --trace
    python -m tests.simulation --seed 4711 --shrink

`planted` puts faults into the product to show that they are found, among them all that the simulator found
in our own design.
"""
