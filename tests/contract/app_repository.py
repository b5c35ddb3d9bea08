"""A repository with an app, in memory."""

PYPROJECT = b"""
[project]
name = "mine"
version = "1.0"
[tool.flwr.app]
publisher = "me"
[tool.flwr.app.components]
serverapp = "mine:server"
clientapp = "mine:client"
[tool.flwr.app.config]
num-server-rounds = 1
lr = 0.1
"""


class Repository:
    """One branch; knows how to move and how to be away."""

    def __init__(self):
        self.commit = "a" * 40
        self.files = {"pyproject.toml": PYPROJECT}
        self.trouble = None
        self.fetched = []

    def fetch(self, source):
        if self.trouble:
            raise self.trouble
        self.fetched.append(source.ref)
        return (source.ref if source.fixed else self.commit), dict(self.files)

    def resolve(self, _):
        if self.trouble:
            raise self.trouble
        return self.commit
