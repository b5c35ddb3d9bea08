"""Messages to systemd (sd_notify), without its library.

Protocol: sd_notify(3); one datagram of ``NAME=value`` lines to ``$NOTIFY_SOCKET``, which is a path,
or an abstract socket written with ``@``.
"""

import socket

_TIMEOUT_S = 0.5


class Notifier:
    """Sends to the socket in `address` (``$NOTIFY_SOCKET``); empty does nothing.

    Never raises: a full or vanished socket must not stop the agent. Each call tells whether
    systemd has been told.
    """

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self) -> bool:
        """Tell that the start, or a reload, is done."""
        return self._send("READY=1")

    def status(self, text: str) -> bool:
        """Set the line that ``systemctl status`` shows."""
        return self._send("STATUS=" + " ".join(text.split()))

    def watchdog(self) -> bool:
        """Tell that the agent's loop still turns (``WatchdogSec=``)."""
        return self._send("WATCHDOG=1")

    def stopping(self) -> bool:
        """Tell that the agent ends."""
        return self._send("STOPPING=1")

    def _send(self, text: str) -> bool:
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_TIMEOUT_S)
                sender.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError:
            return False
        return True
