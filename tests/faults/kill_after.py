"""Runs the real agent and kills it with SIGKILL right after its n-th step, as a power cut would.

    kill_after.py [--after N] [--of steps|writes] [--version V] [--told FILE] AGENT ARGUMENTS

A step is one call to Docker or one act of the certificates; a write is one file under ``tls/``.
Each is told in a line of FILE before the end. With `--version` the agent says that it is another.
"""

import argparse
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import flower_agent


def main():
    options, arguments = parsed()
    if options.version:
        flower_agent.__version__ = options.version
    from flower_agent import cli, files
    from flower_agent.reconcile import reconciler
    from flower_agent.tls import store

    done = 0

    def tell(what):
        nonlocal done
        done += 1
        if options.told:
            with options.told.open("a") as file:
                file.write(f"{what}\n")
        if done == options.after:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(owner, name, words):
        plain = getattr(owner, name)

        def wrapped(*arguments, **named):
            result = plain(*arguments, **named)
            what = words(*arguments)
            if what:
                tell(what)
            return result

        setattr(owner, name, wrapped)

    if options.of == "writes":
        wrap(files, "write_atomic", lambda path, *_: path.name if "tls" in path.parts else "")
    else:
        wrap(reconciler.Reconciler, "_do", lambda _, call: f"{call.step.action} {call.step.name}")
        wrap(store.Keyring, "apply", lambda _, step, *__: step.action.value)
    return cli.main(arguments)


def parsed():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--after", type=int, default=0)
    parser.add_argument("--of", default="steps")
    parser.add_argument("--version")
    parser.add_argument("--told", type=pathlib.Path)
    return parser.parse_known_args()


if __name__ == "__main__":
    sys.exit(main())
