"""The families of synthetic data: what the teacher is asked, and how its answers become training rows."""
