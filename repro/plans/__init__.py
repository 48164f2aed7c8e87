"""From YAML to runs: experiments, profiles and what they expand to. Executes nothing."""
