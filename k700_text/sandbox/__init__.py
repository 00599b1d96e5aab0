"""An offline stand-in for the services, plus generated clips: the demo and the tests run on it."""
