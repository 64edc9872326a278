"""`python -m benchmarks`, which `make bench` calls: the encoder against what people would run instead."""

from benchmarks.encode import main

main()
