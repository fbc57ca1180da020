"""mosso profile: where the time of an evaluation goes, and what limits it."""
