"""The rehearsal of a suite: every kind of its cells with random weights, in minutes."""
