"""MLflow as a place: a client that has answered, and the registry of models."""
