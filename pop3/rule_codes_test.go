package pop3_test

import "testing"

// Rules of the codes of RFC 3206.

func TestRule143_SystemErrors(t *testing.T) { play(t, "rule143-*.txt") }

func TestRule144_Credentials(t *testing.T) { play(t, "rule144-*.txt") }

func TestRule145_AuthRespCode(t *testing.T) { play(t, "rule145-*.txt") }

func TestRule146_CodesForEveryLogin(t *testing.T) { play(t, "rule146-*.txt") }

func TestRule147_Outage(t *testing.T) { play(t, "rule147-*.txt") }

func TestRule148_LockOrNot(t *testing.T) { play(t, "rule148-*.txt") }
