package pop3_test

import "testing"

// Rules of sessions, locks, hostile peers and KPOP.

func TestRule171_InUse(t *testing.T) { play(t, "rule171-*.txt") }

func TestRule174_DeliveryWhileLocked(t *testing.T) { play(t, "rule174-*.txt") }

func TestRule175_RemovedUnderUs(t *testing.T) { play(t, "rule175-*.txt") }

func TestRule182_OtherProtocols(t *testing.T) { play(t, "rule182-*.txt") }

func TestRule183_ProxyHeader(t *testing.T) { play(t, "rule183-*.txt") }

func TestRule184_XCLIENT(t *testing.T) { play(t, "rule184-*.txt") }

func TestRule195_KPOP(t *testing.T) { play(t, "rule195-*.txt") }

func TestRule196_KPOPCapa(t *testing.T) { play(t, "rule196-*.txt") }
