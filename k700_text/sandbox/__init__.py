"""An offline stand-in for the web services and for Kinetics clips: demo and tests run on it."""
