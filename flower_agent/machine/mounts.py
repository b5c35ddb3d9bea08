"""Mount propagation, which Docker wants to know before it follows mounts made later. Pure.

Format: proc_pid_mountinfo(5). Docker takes ``rslave`` only where the source's mount is shared or a
slave itself; under a unit with a mount namespace the host's shared mounts are seen as slaves.
"""


def follows(mountinfo: str, path: str) -> bool:
    """Tell whether the mount that holds `path` is shared or a slave."""
    best, follows_best = "", False
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 7:  # noqa: PLR2004  # not a line of this file
            continue
        point = fields[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            optional = fields[6 : fields.index("-")] if "-" in fields else []
            best = point
            follows_best = any(field.startswith(("shared:", "master:")) for field in optional)
    return follows_best
