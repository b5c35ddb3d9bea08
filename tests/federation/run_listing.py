"""What a SuperLink answers of runs, and the commits of their apps."""

import socket
import subprocess


def commit(repository, message):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["add", "-A"], [*who, "commit", "-q", "--allow-empty", "-m", message]):
        subprocess.run(["git", *arguments], cwd=repository, check=True, timeout=60)
    head = ["git", "rev-parse", "HEAD"]
    return subprocess.run(
        head, cwd=repository, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
