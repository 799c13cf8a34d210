"""One trained model: read from where it lies, told of, and handed out."""
