"""`metaeol tune`, `curves` and `fit --data`: chooses layers, templates and post-processing on labelled pairs or on texts alone."""
