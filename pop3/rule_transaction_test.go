package pop3_test

import "testing"

// Rules of the TRANSACTION state.

func TestRule040_NumbersAreFixed(t *testing.T) { play(t, "rule040-*.txt") }

func TestRule041_STAT(t *testing.T) { play(t, "rule041-*.txt") }

func TestRule042_STATWithoutDeleted(t *testing.T) { play(t, "rule042-*.txt") }

func TestRule043_LIST(t *testing.T) { play(t, "rule043-*.txt") }

func TestRule044_ListEmpty(t *testing.T) { play(t, "rule044-*.txt") }

func TestRule045_NothingAfterSize(t *testing.T) { play(t, "rule045-*.txt") }

func TestRule048_RetrRefused(t *testing.T) { play(t, "rule048-*.txt") }

func TestRule050_DELE(t *testing.T) { play(t, "rule050-*.txt") }

func TestRule052_RSET(t *testing.T) { play(t, "rule052-*.txt") }

func TestRule053_NOOP(t *testing.T) { play(t, "rule053-*.txt") }

func TestRule054_TOP(t *testing.T) { play(t, "rule054-*.txt") }

func TestRule055_Top0(t *testing.T) { play(t, "rule055-*.txt") }

func TestRule056_TopCountsBodyLines(t *testing.T) { play(t, "rule056-*.txt") }

func TestRule057_TopStuffs(t *testing.T) { play(t, "rule057-*.txt") }

func TestRule059_UIDL(t *testing.T) { play(t, "rule059-*.txt") }

func TestRule063_NothingAfterUniqueID(t *testing.T) { play(t, "rule063-*.txt") }

// TOP and UIDL are there and are announced.
func TestRule064_OptionalCommands(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.store.Deliver("alice", "Subject: one\n\n")
	c := w.login(t)
	caps, err := c.Capa(t.Context())
	if err != nil || !caps.Has("TOP") || !caps.Has("UIDL") {
		t.Errorf("CAPA says %v, %v", caps, err)
	}
	if _, err := c.Top(t.Context(), 1, 0); err != nil {
		t.Error(err)
	}
	if _, err := c.UIDL(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRule068_DeliveryDoesNotDisturb(t *testing.T) { play(t, "rule068-*.txt") }

func TestRule069_ListingIsSnapshot(t *testing.T) { play(t, "rule069-*.txt") }
