"""What several strategies share, or what would make one of them too long to read."""
