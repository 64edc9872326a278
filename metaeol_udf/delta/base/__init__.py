"""What every phase of a run is given: settings, session, report, progress, failure budget, SIGTERM."""
