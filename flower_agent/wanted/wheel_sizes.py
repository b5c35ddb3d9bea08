"""How large the wheels are that pip would fetch: asked before a byte of them comes. Pure.

pip's installation report has addresses and no sizes, so a program beside pip asks each server with
HEAD (RFC 9110, Content-Length), by pip's own proxy, login and authorities. A server that does not
tell leaves a size unknown.
"""

import json
from collections.abc import Iterable

from .frameworks import PLACE

FILE = "sizes.json"
MAX_BYTES = 1 << 20
DEADLINE_S = 30

PROGRAM = """\
import base64, concurrent.futures, configparser, json, os, ssl, sys, time
import urllib.parse, urllib.request
report, settings, target, authorities, deadline_s = sys.argv[1:]
end = time.monotonic() + float(deadline_s)
conf = configparser.RawConfigParser()
conf.read(settings)
proxy = conf.get("global", "proxy", fallback="")
index = urllib.parse.urlsplit(conf.get("global", "index-url", fallback=""))
trust = ssl.create_default_context(cafile=authorities if os.path.exists(authorities) else None)
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({"https": proxy} if proxy else {}),
    urllib.request.HTTPSHandler(context=trust),
)
def size(url):
    where = urllib.parse.urlsplit(url)
    if where.scheme == "file":
        return os.path.getsize(urllib.parse.unquote(where.path))
    left_s = end - time.monotonic()
    if left_s <= 0 or where.scheme not in ("http", "https"):
        return 0
    ask = urllib.request.Request(url, method="HEAD")
    if index.password is not None and where.hostname == index.hostname:
        login = ":".join(map(urllib.parse.unquote, (index.username or "", index.password)))
        ask.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    with opener.open(ask, timeout=min(left_s, 10)) as answer:
        return int(answer.headers["Content-Length"])
def safe(url):
    try:
        return size(url)
    except Exception:
        return 0
with open(report) as file:
    urls = [row["download_info"]["url"] for row in json.load(file)["install"]]
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = dict(zip(urls, pool.map(safe, urls)))
with open(target, "w") as file:
    json.dump(found, file)
"""
"""No word of it reaches a shell or an image; what it is given are paths and a number."""


def command(report: str) -> tuple[str, ...]:
    """Return the command that writes the sizes of what is in pip's report `report`."""
    paths = (f"{PLACE}/{name}" for name in (report, "pip.conf", FILE, "ca.crt"))
    return ("python", "-I", "-S", "-c", PROGRAM, *paths, str(DEADLINE_S))


def read(data: bytes | None) -> dict[str, int]:
    """Return the size in bytes of each wheel, by address; what is unknown is left out."""
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    rows: Iterable[tuple[object, object]] = found.items() if isinstance(found, dict) else ()
    return {str(url): size for url, size in rows if isinstance(size, int) and size > 0}
