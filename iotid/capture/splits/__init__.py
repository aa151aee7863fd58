"""Which captures there are, and how each is cut into byte ranges on record boundaries."""
