"""Tables of Lance: whether one may be opened, and its rows."""
