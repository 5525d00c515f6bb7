"""What can be typed: the commands and their options. Loads nothing but argparse."""

from __future__ import annotations

import argparse

DAEMON_SETTINGS = (
    "memory_limit",
    "mode",
    "group",
    "log_level",
    "log_format",
    "log_file",
    "pages",
    "idle_trim_s",
    "max_objects",
    "rpc",
    "rpc_token_file",
    "rpc_cert_file",
    "rpc_key_file",
    "rpc_open",
    "rpc_advertise",
    "dashboard",
    "dashboard_open",
    "meta",
    "meta_ca_file",
    "meta_cert_file",
    "meta_key_file",
    "meta_login_file",
    "meta_token_file",
    "meta_lease_s",
    "start_etcd",
)

FORMATS = ".parquet, .pq, .csv, .tsv, .jsonl, .ndjson, .json, .arrow, .ipc, .feather, .arrows, .orc"
PACKED = ".gz, .bz2, .zst, .lz4, .br"
ALL = "delete everything: objects, streams, blocks of shared memory"

EPILOG = """\
A setting is taken from its option, else from the variable VINEYARD_ARROW_<NAME>, else from the
file that VINEYARD_ARROW_CONFIG names or ~/.config/vineyard-arrow/config.toml.
Exit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon runs."""


class _Version(argparse.Action):
    """Like argparse's own, but looks the version up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        print(f"vineyard-arrow {__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        "vineyard-arrow",
        description="A shared-memory store of immutable Arrow data on this host.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    _add_common(parser, None, False)
    common = argparse.ArgumentParser(add_help=False)
    # Allowed before and after the command; after it, absence must not undo what came before.
    _add_common(common, argparse.SUPPRESS, argparse.SUPPRESS)
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return sub.add_parser(
            name, parents=[common], help=text, description=text[0].upper() + text[1:]
        )

    _add_daemon_options(command("start", "start a daemon in the background"))
    serve = command("serve", "run a daemon in the foreground")
    _add_daemon_options(serve)
    serve.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    stop = command("stop", "stop the daemon and wait until it is gone")
    stop.add_argument("--timeout-s", type=float, help="seconds to wait (default 30)")
    command("status", "show memory, objects and clients of the store")
    ls = command("ls", "list objects, or streams")
    ls.add_argument("pattern", nargs="?", default="*", help="of a name or typename, as in a shell")
    ls.add_argument("--limit", type=_count, default=1000, help="at most that many (1000)")
    ls.add_argument("--streams", action="store_true", help="list streams, by name, instead")
    ls.add_argument("-l", "--long", action="store_true", help="all that is known of each")
    _add_values(command)
    command("du", "show what memory each object takes, alone or shared")
    top = command("top", "watch the store; q leaves")
    top.add_argument("--interval", type=_seconds, default=1.0, help="seconds between frames (1)")
    top.add_argument("--once", action="store_true", help="print one frame")
    codegen = command("codegen", "write the shared classes of a Python file in another language")
    codegen.add_argument("file", help="Python; read, not imported")
    codegen.add_argument(
        "--lang", choices=("python", "cpp"), default="python", help="what to write (python)"
    )
    codegen.add_argument("-o", "--output", metavar="OUT", help="file to write (standard output)")
    codegen.add_argument("--module", metavar="NAME", help="what FILE is imported as, if not clear")
    command("doctor", "find what holds memory, and what is wrong with store and machine")
    return parser


def _add_common(parser: argparse.ArgumentParser, socket: object, json: object) -> None:
    parser.add_argument("--socket", default=socket, metavar="PATH", help="the daemon's socket")
    parser.add_argument("--json", default=json, action="store_true", help="print one JSON document")


def _add_daemon_options(parser: argparse.ArgumentParser) -> None:
    texts = {
        "memory_limit": "most bytes of data, such as 4GiB or 50%% (half of the memory)",
        "mode": "permissions of the socket: 0600, or 0660 with --group",
        "group": "group that may connect, by name or number",
        "log_level": "DEBUG, INFO, WARNING, ERROR or CRITICAL",
        "log_format": "text or json",
        "log_file": "where to log instead of standard error",
        "pages": "auto, huge or small",
        "idle_trim_s": "seconds after which free memory goes back to the machine",
        "max_objects": "most objects and names",
        "rpc": "host:port to serve clients over TCP at; port 0 takes a free one",
        "rpc_token_file": "file with the token that clients over TCP must show",
        "rpc_cert_file": "file with the certificate (PEM) to serve them over TLS by",
        "rpc_key_file": "file with its key",
        "rpc_open": "true: serve other machines without a token",
        "rpc_advertise": "host or host:port by which other instances reach it",
        "dashboard": "host:port to show the store at in a browser; port 0 takes a free one",
        "dashboard_open": "true: show it to other machines",
        "meta": "embedded, or etcd://host:port,host:port/cluster to join a cluster",
        "meta_ca_file": "file with the authority (PEM) that etcd's certificates are checked by",
        "meta_cert_file": "file with the daemon's own certificate for etcd",
        "meta_key_file": "file with its key",
        "meta_login_file": "file with one line, user:password, to be let in to etcd by",
        "meta_token_file": "file with a token for that",
        "meta_lease_s": "seconds without a word after which the cluster counts this out (10)",
        "start_etcd": "start a throwaway etcd that ends with the daemon; with --meta etcd",
    }
    for name in DAEMON_SETTINGS:
        how = {"action": "store_const", "const": True} if name == "start_etcd" else {"metavar": "X"}
        parser.add_argument("--" + name.replace("_", "-"), help=texts[name], **how)


def _add_values(command: object) -> None:
    assert callable(command)
    get = command("get", "show a value, or write a table to a file")
    get.add_argument("key", help="id or name")
    get.add_argument("--to", metavar="FILE", help=f"{FORMATS}; one that is there is replaced")
    _add_place(get)
    get.add_argument("--head", type=_count, default=10, metavar="N", help="rows to show (10)")
    get.add_argument("--trusted", action="store_true", help="load pickles of other users, too")
    put = command("put", "store tables from files, all or none")
    put.add_argument(
        "file", nargs="+", help=f"path, glob, directory or url: {FORMATS}; text also {PACKED}"
    )
    _add_place(put)
    put.add_argument("--query", metavar="SQL", help="what of a database, instead of a table")
    put.add_argument("--name", help="a name to point to it: a free one, or with --overwrite any")
    put.add_argument("--overwrite", action="store_true", help="move the name if it is taken")
    put.add_argument(
        "--resume",
        metavar="NAME",
        help="if it fails, keep what was read under this name; the same command goes on from there",
    )
    export = command("export", "write objects, with their members, to a new folder")
    export.add_argument("key", nargs="*", help="id or name")
    export.add_argument("url", help="path, or URL such as s3://bucket/name")
    export.add_argument("--all", action="store_true", help="everything in the store")
    export.add_argument("--compression", choices=("zstd", "lz4"), help="of the files (none)")
    import_ = command("import", "store what export wrote, all or none")
    import_.add_argument("url", help="path, or URL such as s3://bucket/name")
    import_.add_argument(
        "--names",
        choices=("error", "keep", "replace"),
        default="error",
        help="if a name is taken: fail, leave it where it is, or point it here (error)",
    )
    import_.add_argument("--trusted", action="store_true", help="let gets load pickles in it")
    import_.add_argument(
        "--over",
        metavar="NUMBERS",
        help="instances to deal partitions out over, such as 0a1b2c,0a1b2d, or all (as they were)",
    )
    rm = command("rm", "delete objects, or drop streams")
    rm.add_argument("key", nargs="*", help="id or name")
    rm.add_argument("--all", action="store_true", help=ALL)
    rm.add_argument("--force", action="store_true", help="members of other objects too")
    rm.add_argument("-y", "--yes", action="store_true", help="do not ask (only --all asks)")


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", help="of the file, if its name does not tell")
    parser.add_argument("--table", metavar="NAME", help="which one of a database")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.01")
    return seconds
