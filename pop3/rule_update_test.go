package pop3_test

import "testing"

// Rules of the UPDATE state.

func TestRule078_RemovedByTwo(t *testing.T) { play(t, "rule078-*.txt") }
