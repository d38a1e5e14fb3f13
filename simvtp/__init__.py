"""SimVTP."""
