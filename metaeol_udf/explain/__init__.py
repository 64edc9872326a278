"""`metaeol explain`: the words that the model would most probably say next, and other words for a meta-task."""
