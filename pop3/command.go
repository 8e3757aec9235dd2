package pop3

import "context"

// state is a set of session states (RFC 1939 sections 4 to 6), so that a
// command can be valid in more than one.
type state uint8

const (
	authorization state = 1 << iota
	transaction
	closing // nothing more is read
)

// flag is what else the engine must know of a command.
type flag uint8

const (
	secret   flag = 1 << iota // the arguments never reach a log and are wiped
	password                  // the rest of the line is one argument, and the name given to USER is used up
	keepUser                  // may stand between USER and PASS
	reads                     // reads on, so that it wipes its arguments itself: they are not there any more when it returns
	sdps                      // unknown unless Server.Envelopes
)

// args are the arguments of a command, valid until it returns.
type args [][]byte

// command is one row of the protocol: all that is checked before a handler
// runs.
type command struct {
	name     string
	in       state
	min, max int // arguments
	flags    flag
	run      func(*session, context.Context, args) error
}

const maxArgs = 2 // the largest max of any row

var commands = [...]command{
	{"RETR", transaction, 1, 1, 0, (*session).retr}, // RFC 1939 section 5
	{"DELE", transaction, 1, 1, 0, (*session).dele},
	{"LIST", transaction, 0, 1, 0, (*session).list},
	{"STAT", transaction, 0, 0, 0, (*session).stat},
	{"NOOP", transaction, 0, 0, 0, (*session).noop},
	{"RSET", transaction, 0, 0, 0, (*session).rset},
	{"TOP", transaction, 2, 2, 0, (*session).top}, // RFC 1939 section 7
	{"UIDL", transaction, 0, 1, 0, (*session).uidl},
	{"QUIT", authorization | transaction, 0, 0, 0, (*session).quit}, // RFC 1939 sections 4 and 6
	{"USER", authorization, 1, 1, 0, (*session).user},               // RFC 1939 section 7
	{"PASS", authorization, 0, 1, secret | password, (*session).pass},
	{"RPOP", authorization, 0, 1, secret | password, (*session).rpop},         // PASS of old KPOP clients
	{"APOP", authorization, 2, 2, secret, (*session).apop},                    // RFC 1939 section 7
	{"AUTH", authorization, 0, 2, secret | keepUser | reads, (*session).auth}, // RFC 5034 section 4
	{"CAPA", authorization | transaction, 0, 0, keepUser, (*session).capa},    // RFC 2449 section 5
	{"STLS", authorization, 0, 0, 0, (*session).stls},                         // RFC 2595 section 4
	{"UTF8", authorization | transaction, 0, 0, 0, (*session).utf8},           // RFC 6856 section 2
	{"LANG", authorization | transaction, 0, 1, 0, (*session).lang},           // RFC 6856 section 3
	{"*ENV", transaction, 1, 1, sdps, (*session).envelope},                    // of no RFC
}

// lookup finds a command by name in any case; ASCII only, as RFC 1939 section
// 3 has it, so that no other letter folds into one.
func lookup(name []byte) *command {
	for i := range commands {
		if equalFold(commands[i].name, name) {
			return &commands[i]
		}
	}
	return nil
}

// equalFold reports whether b is upper in any case.
func equalFold(upper string, b []byte) bool {
	if len(upper) != len(b) {
		return false
	}
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != upper[i] {
			return false
		}
	}
	return true
}

// parseArgs splits what follows the name of c into at most maxArgs pieces.
func (c *command) parseArgs(text []byte, spaced bool, into *[maxArgs][]byte) (args, error) {
	var a args
	switch {
	case !spaced:
	case c.flags&password != 0:
		into[0] = text
		a = into[:1]
	default:
		var ok bool
		if a, ok = split(text, into); !ok {
			return nil, wrongArgs(c.name)
		}
	}
	if len(a) < c.min || len(a) > c.max {
		return nil, wrongArgs(c.name)
	}
	return a, nil
}

// split cuts text at single spaces, ignoring those at its end. It is false
// when two stand together or there are too many pieces.
func split(text []byte, into *[maxArgs][]byte) (args, bool) {
	for len(text) > 0 && text[len(text)-1] == ' ' {
		text = text[:len(text)-1]
	}
	n := 0
	for len(text) > 0 {
		end := 0
		for end < len(text) && text[end] != ' ' {
			end++
		}
		if end == 0 || n == maxArgs {
			return nil, false
		}
		into[n] = text[:end]
		n++
		text = text[min(end+1, len(text)):]
	}
	return into[:n], true
}

// parseNumber reads a decimal number without sign or leading zeros.
func parseNumber(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 19 || b[0] == '0' && len(b) > 1 { // 19 digits always fit
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	return n, true
}
