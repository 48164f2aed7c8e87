"""Submits missing runs as SLURM arrays, with a batch script and SLURM's own commands.

Not submitit: it submits pickled functions, while a script can be read, and it needs `sacct` for job states,
which many clusters lack.
"""
