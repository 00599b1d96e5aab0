"""Controlled comparisons: variants of one run that differ in one thing, over seeds, in one table."""
