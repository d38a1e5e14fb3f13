"""Several sources of clips as one: which clips an epoch takes of each, and in which order."""
