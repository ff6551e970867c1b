"""What an author of agents or tasks sees."""
