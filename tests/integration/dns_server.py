"""A name server with one name, whose addresses a test changes, and a way to have one process alone ask it."""
import shutil
import socket
import subprocess
import threading

ADDRESS = "127.0.0.79"
MISSING = f"NOT TESTED: a name server needs port 53 of {ADDRESS}, and its client a mount namespace: run as root"
NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3


class DnsServer:
    """Answers for `name` by RFC 1035, with `addresses` (IPv4) or, if it is set, `error`. Raises OSError if it may not."""

    def __init__(self, name):
        self.name = name
        self.addresses, self.error = [], NO_ERROR
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((ADDRESS, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self._socket.close()

    def _serve(self):
        while True:
            try:
                question, client = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(question), client)
            except OSError:
                return

    def _answer(self, message):
        end = message.index(b"\0", 12) + 5
        question, kind = message[12:end], int.from_bytes(message[end - 4:end - 2], "big")
        labels, at = [], 12
        while message[at]:
            labels.append(message[at + 1:at + 1 + message[at]].decode().lower())
            at += 1 + message[at]
        error, addresses = self.error, []
        if ".".join(labels) != self.name:
            error = NO_SUCH_NAME
        elif kind == 1:  # A; there is nothing else
            self.asked += 1
            addresses = self.addresses if error == NO_ERROR else []
        records = b"".join(b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04" + socket.inet_aton(address) for address in addresses)
        flags = (0x8580 | error).to_bytes(2, "big")  # an answer, authoritative, with recursion
        return message[:2] + flags + b"\0\x01" + len(addresses).to_bytes(2, "big") + bytes(4) + question + records


def within(folder):
    """The command that runs another with this as its only name server; None if that cannot be done here."""
    (folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\noptions timeout:1 attempts:1\n")
    command = ["unshare", "--mount", "sh", "-c", f'mount --bind "{folder}/resolv.conf" /etc/resolv.conf && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        return None
    return command
