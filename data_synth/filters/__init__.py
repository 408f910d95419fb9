"""What is kept and what is set aside: each filter is one idea in one file and answers ``True`` or a reason.

Filters see a finished row with the item it came from, judge only the texts that the teacher wrote, and are pure: the
same row gets the same answer. Nothing is deleted; a refused row is published under ``rejected/`` with its reason.
"""
