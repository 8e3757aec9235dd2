package pop3_test

import "testing"

// Rules of greeting, grammar and replies.

func TestRule002_StatusUpperCase(t *testing.T) { play(t, "rule002-*.txt") }

func TestRule003_KeywordsAnyCase(t *testing.T) { play(t, "rule003-*.txt") }

func TestRule004_KeywordLength(t *testing.T) { play(t, "rule004-*.txt") }

func TestRule007_UnknownCommands(t *testing.T) { play(t, "rule007-*.txt") }

func TestRule008_WrongState(t *testing.T) { play(t, "rule008-*.txt") }

func TestRule010_Separators(t *testing.T) { play(t, "rule010-*.txt") }

func TestRule011_Numbers(t *testing.T) { play(t, "rule011-*.txt") }

func TestRule012_MessageNumberZero(t *testing.T) { play(t, "rule012-*.txt") }

func TestRule013_BareLineFeed(t *testing.T) { play(t, "rule013-*.txt") }

func TestRule014_NUL(t *testing.T) { play(t, "rule014-*.txt") }

func TestRule015_GreetingWithoutStamp(t *testing.T) { play(t, "rule015-*.txt") }

func TestRule016_BracketsAreCodes(t *testing.T) { play(t, "rule016-*.txt") }

func TestRule017_ByteStuffing(t *testing.T) { play(t, "rule017-*.txt") }

func TestRule020_NoLineTooMany(t *testing.T) { play(t, "rule020-*.txt") }

func TestRule022_QuitCloses(t *testing.T) { play(t, "rule022-*.txt") }
