"""A rehearsal of a profile: its own runs, with models and data sets so small that minutes suffice."""
