"""The remote plane: a store reached over TCP, by Arrow Flight.

The server is a process beside the daemon and an ordinary client of it. Our own clients talk to
it over lines (DoExchange calls that stay open), stock Flight clients by the usual calls.
"""
