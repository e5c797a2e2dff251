"""Which process a number means: the system gives a number again, in a container soon and in the same order."""

from __future__ import annotations

from pathlib import Path


def process_name(pid: int) -> str | None:
    """A name for the process that no later one of the same number has; None where there is no such process.

    It is the boot of the system and the moment after it at which the process started (`man 5 proc_pid_stat`).
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if after_name[0] == "Z":  # ended, and nobody has asked how
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {after_name[19]}"
