"""Clip files: decoding, encoding, probing. The only packages that touch PyAV."""
