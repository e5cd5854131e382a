"""What several test modules share, by topic."""
