"""A Python interpreter whose libraries are imported already: `fork_client.py SOCKET -m MODULE ...`, or `-c CODE ...`.

It asks `fork_server` for a process with its own open files, folder, mounts and environment. It passes signals on to
that process and ends as it ends. Where it is killed, so is that process. Other command lines go to a real interpreter.

Imports as little as it can: it is to begin at once.
"""

import contextlib
import json
import os
import signal
import socket
import sys

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
STANDS_FOR = "for "  # its name, before the process ID of the one that it stands for
NAMESPACES = ("user", "mnt")  # the process is to have those of who asks: other disks may be mounted there
LONGEST = 1 << 20  # bytes of a message


def ask(
    server: str, words: list[str], home: str, env: dict[str, str], fds: dict[int, int]
) -> tuple[socket.socket, int]:
    """Begin `python WORDS` with the open files `fds`, by their numbers there: who tells its end, and its process ID."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
    connection.connect(server)
    request = json.dumps({"words": words, "home": home, "env": env, "fds": [*fds]}).encode()
    own = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in NAMESPACES]
    socket.send_fds(connection, [request], [*own, *fds.values()])
    for namespace in own:
        os.close(namespace)
    return connection, int(connection.recv(100))


def main() -> None:
    server, *words = sys.argv[1:]
    if words[:2] == ["-u", "-c"]:  # as pytest-xdist begins its own, which does not rely on the -u
        del words[0]
    if not words or words[0] not in ("-m", "-c"):
        os.execv(sys.executable, [sys.executable, *words])
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    inherited = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    fds = {number: number for number in inherited if os.path.exists(f"/proc/self/fd/{number}")}  # noqa: PTH110
    connection, pid = ask(server, words, os.getcwd(), dict(os.environ), fds)  # noqa: PTH109
    with open("/proc/self/comm", "w") as name:  # noqa: PTH123
        name.write(f"{STANDS_FOR}{pid}")

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(pid, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = int(connection.recv(100) or 1)
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
