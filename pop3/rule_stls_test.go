package pop3_test

import "testing"

// Rules of STLS (RFC 2595).

func TestRule099_StlsAfterLogin(t *testing.T) { play(t, "rule099-*.txt") }

func TestRule100_StlsUnderTLS(t *testing.T) { play(t, "rule100-*.txt") }

func TestRule101_StlsTakesNoArgument(t *testing.T) { play(t, "rule101-*.txt") }

func TestRule103_StillAuthorization(t *testing.T) { play(t, "rule103-*.txt") }

func TestRule104_ForgetBeforeTLS(t *testing.T) { play(t, "rule104-*.txt") }

func TestRule105_CapaChangesWithTLS(t *testing.T) { play(t, "rule105-*.txt") }

func TestRule107_PasswordsNeedTLS(t *testing.T) { play(t, "rule107-*.txt") }
