"""The way in for people: log-in, roles and relays in front of the SuperLink's Control API."""
