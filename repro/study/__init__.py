"""From a table's file to finished runs: specs, experiments, profiles, the runner and its store of results."""
