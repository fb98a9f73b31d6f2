"""Talking with Slurm: words out, text in. What Slurm says is read here and nowhere else."""
