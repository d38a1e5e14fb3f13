"""What can be served, as one kind of thing: model folders and exported ones."""
