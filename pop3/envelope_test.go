package pop3_test

import "testing"

func TestEnvelopes(t *testing.T) { play(t, "sdps-*.txt") }

func TestViews(t *testing.T) { play(t, "view-*.txt") }
