"""Labelled evaluation data sets."""
