"""Temporary."""
import dataclasses, re
@dataclasses.dataclass(frozen=True)
class Exit:
    code: int|None; flower_code: int|None; meaning: str; hint: str
@dataclasses.dataclass(frozen=True)
class Peer:
    node_id: str|None; connected: bool; detail: str; clock_refused: bool
def explain(exit_code, oom_killed, log_tail): return Exit(exit_code, None, f"exit {exit_code}", "")
def telling(lines): return tuple(l for l in lines if re.search("SuperNode ID|Connection (attempt|succ)|Invalid timestamp", l))
def peer(lines):
    node=None; conn=False; det=""; clock=False
    for l in lines:
        m=re.search(r"SuperNode ID: (\d+)", l)
        if m: node=m[1]; conn=True
        if "attempt failed" in l: conn=False; det=l
        if "Connection successful" in l: conn=True
        if "Invalid timestamp" in l: clock=True
    return Peer(node, conn, det, clock)
