"""`metaeol evaluate`: scores the vectors of a configuration on labelled data, and shows the scores."""
