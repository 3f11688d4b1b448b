"""Jobs: the background tasks of the service, and their pages on the web."""
