"""The families of synthetic data: what is asked of the teacher and how its answers become training rows."""
