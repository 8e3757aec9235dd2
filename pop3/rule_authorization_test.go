package pop3_test

import "testing"

// Rules of the AUTHORIZATION state.

func TestRule023_QuitBeforeLogin(t *testing.T) { play(t, "rule023-*.txt") }

func TestRule025_NoEnumeration(t *testing.T) { play(t, "rule025-*.txt") }

func TestRule026_PassNeedsUser(t *testing.T) { play(t, "rule026-*.txt") }

func TestRule027_SpacesInPasswords(t *testing.T) { play(t, "rule027-*.txt") }

func TestRule029_LoginAgain(t *testing.T) { play(t, "rule029-*.txt") }

func TestRule032_MaildropCannotBeHad(t *testing.T) { play(t, "rule032-*.txt") }

func TestRule035_APOPDigest(t *testing.T) { play(t, "rule035-*.txt") }

func TestRule036_PassOrAPOP(t *testing.T) { play(t, "rule036-*.txt") }

func TestRule037_APOPWithoutStamp(t *testing.T) { play(t, "rule037-*.txt") }

func TestRule038_NoStampWithoutAPOP(t *testing.T) { play(t, "rule038-*.txt") }
