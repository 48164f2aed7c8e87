"""Missing runs as SLURM arrays: a batch script, and SLURM's own commands.

Not submitit: it sends pickled functions where a script says the same to a person and to an administrator, and
reads the states of its jobs from `sacct`, which many clusters lack.
"""
