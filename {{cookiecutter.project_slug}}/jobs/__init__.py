"""Jobs: what the service does in the background, and its addresses on the web."""
