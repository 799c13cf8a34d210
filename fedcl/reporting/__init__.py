"""One run told: on the terminal, in figures, to MLflow."""
