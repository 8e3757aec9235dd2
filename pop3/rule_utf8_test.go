package pop3_test

import "testing"

// Rules of UTF8 and LANG (RFC 6856).

func TestRule149_UTF8AfterLogin(t *testing.T) { play(t, "rule149-*.txt") }

func TestRule150_UTF8Native(t *testing.T) { play(t, "rule150-*.txt") }

func TestRule153_STLSAfterUTF8(t *testing.T) { play(t, "rule153-*.txt") }

func TestRule154_LANG(t *testing.T) { play(t, "rule154-*.txt") }

func TestRule156_CodesInAnyLanguage(t *testing.T) { play(t, "rule156-*.txt") }
