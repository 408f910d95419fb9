"""Filters: each in its own module, returning ``True`` or the reason for a rejection.

Filters get a finished row with its item, check only the texts that the teacher wrote, and are pure: the same row gets
the same result. Nothing is deleted; a rejected row is published under ``rejected/`` with its reason.
"""
