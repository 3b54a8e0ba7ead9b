"""Tells systemd how the daemon fares: ready, reloading, stopping, and that its watchdog may be calm."""

import os
import socket


def notify(state: str) -> bool:
    """Sends lines such as ``READY=1`` to the service manager. False when there is none or it does not listen.

    Never blocks: a full queue at the other end loses the message, and a watchdog message is soon followed by the next.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(state.encode(), address)
    except OSError:
        return False
    return True
