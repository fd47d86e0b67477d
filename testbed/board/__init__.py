"""The leaderboard: frozen suites, entries that the server checked itself, and pages to look at them."""
