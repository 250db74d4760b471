"""The outside world: files, models, recognisers. One small class or function per neighbour."""
