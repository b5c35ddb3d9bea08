"""Calls beside the loop, without threads."""

from flower_agent.background import Threads


class Inline(Threads):
    """Does each call when it is started."""

    def __init__(self):
        super().__init__(lambda: None)

    def start(self, _, run):
        run()


class Held(Threads):
    """Does each call when the test lets it; `late` are those that wait."""

    def __init__(self):
        super().__init__(lambda: None)
        self.late = []

    def start(self, name, run):
        self.late.append((name, run))

    def release(self, name=None):
        """Do the calls of that name, all without one, in the order in which they were started."""
        due = [run for each, run in self.late if name in (None, each)]
        self.late = [(each, run) for each, run in self.late if name not in (None, each)]
        for run in due:
            run()


def running(threads, *names):
    """Return whether a call of one of these names is under way."""
    return any(user.running and user._name in names for user in tuple(threads._users))
