"""Video-text retrieval: features of clips and captions, ranks, their certainty, sheets."""
