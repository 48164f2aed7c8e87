"""From YAML to runs: experiments, profiles and the specs they expand to. Executes nothing."""
