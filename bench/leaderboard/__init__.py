"""The leaderboard: a card per method and protocol, its check against the published rows, and its site."""
