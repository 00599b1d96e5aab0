"""Evaluation of a trained model: features, linear probe, protocols, data sets."""
