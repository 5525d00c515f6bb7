"""The command line."""

from __future__ import annotations

import argparse
import os
import sys


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("vineyard-arrow")
    sub = parser.add_subparsers(dest="command", required=True)
    s = sub.add_parser("serve")
    s.add_argument("--socket")
    s.add_argument("--memory-limit")
    s.add_argument("--pages")
    s.add_argument("--ready-fd", type=int)
    args = parser.parse_args(argv)
    if args.ready_fd is not None and os.fork():
        os._exit(0)
    from .config import daemon_config
    from .daemon import main_from_config

    config = daemon_config(socket=args.socket, memory_limit=args.memory_limit, pages=args.pages)
    return main_from_config(config, args.ready_fd)
