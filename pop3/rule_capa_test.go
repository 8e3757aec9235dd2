package pop3_test

import "testing"

// Rules of CAPA, pipelining and response codes (RFC 2449).

func TestRule082_CAPA(t *testing.T) { play(t, "rule082-*.txt") }

func TestRule083_CapaTakesNoArgument(t *testing.T) { play(t, "rule083-*.txt") }

func TestRule091_Pipelining(t *testing.T) { play(t, "rule091-*.txt") }

func TestRule092_InUseAfterPassword(t *testing.T) { play(t, "rule092-*.txt") }

func TestRule096_ResponseCodesAnnounced(t *testing.T) { play(t, "rule096-*.txt") }
