package pop3_test

import "testing"

// Rules of AUTH (RFC 5034).

func TestRule121_UnknownMechanism(t *testing.T) { play(t, "rule121-*.txt") }

func TestRule122_Challenge(t *testing.T) { play(t, "rule122-*.txt") }

func TestRule123_ChallengeIsBase64(t *testing.T) { play(t, "rule123-*.txt") }

func TestRule124_Cancel(t *testing.T) { play(t, "rule124-*.txt") }

func TestRule125_StrictBase64(t *testing.T) { play(t, "rule125-*.txt") }

func TestRule126_EmptyInitialResponse(t *testing.T) { play(t, "rule126-*.txt") }

func TestRule127_ServerFirst(t *testing.T) { play(t, "rule127-*.txt") }

func TestRule128_NoInitialResponse(t *testing.T) { play(t, "rule128-*.txt") }

func TestRule130_OneLogin(t *testing.T) { play(t, "rule130-*.txt") }

func TestRule131_SASLListedAfterAuth(t *testing.T) { play(t, "rule131-*.txt") }

func TestRule132_FailedAuthLeavesSession(t *testing.T) { play(t, "rule132-*.txt") }

func TestRule133_DataWithSuccess(t *testing.T) { play(t, "rule133-*.txt") }

func TestRule134_AuthorizationIdentity(t *testing.T) { play(t, "rule134-*.txt") }

func TestRule136_PlainOverTLS(t *testing.T) { play(t, "rule136-*.txt") }

func TestRule137_NoPlaintextWithoutTLS(t *testing.T) { play(t, "rule137-*.txt") }

func TestRule138_WithoutPassword(t *testing.T) { play(t, "rule138-*.txt") }

func TestRule139_AuthWithoutArgument(t *testing.T) { play(t, "rule139-*.txt") }

func TestRule140_MechanismName(t *testing.T) { play(t, "rule140-*.txt") }

func TestRule141_OneText(t *testing.T) { play(t, "rule141-*.txt") }
