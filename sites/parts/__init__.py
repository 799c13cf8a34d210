"""What several data layouts share."""
