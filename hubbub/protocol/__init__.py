"""What clients and processes say to each other: types and rules only.

Nothing here opens a socket, reads a clock or knows a database, so every module can be tested and
simulated as it stands.
"""
