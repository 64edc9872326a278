"""How vectors reach a table: waves, journal, MERGE and its proof, quarantine, and the lock of a run."""
