"""What requests send: their bodies, and videos as bytes, uploads or URLs, as clips."""
