"""One agent written for three services, and the conformance suite on each: `make conformance`."""
