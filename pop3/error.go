package pop3

import (
	"errors"
	"net"
	"strconv"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
)

// protocolError is the client's own mistake. Its text is ours, is safe to
// send, and is all that is sent.
type protocolError string

func (e protocolError) Error() string { return string(e) }

const (
	errUnknownCommand = protocolError("Unknown command")
	errLineTooLong    = protocolError("Line too long")
	errNUL            = protocolError("NUL in command")
	errControl        = protocolError("Control character in argument")
	errNotOffered     = protocolError("Not offered here")
	errNoMechanism    = protocolError("No such mechanism here")
	errNoInitial      = protocolError("This mechanism takes no initial response")
	errUserFirst      = protocolError("Send USER first")
	errNoPassword     = protocolError("PASS needs an argument")
	errNotNumber      = protocolError("Not a message number")
	errNoMessage      = protocolError("No such message")
	errDeleted        = protocolError("Message is marked as deleted")
	errNotCount       = protocolError("Not a line count")
	errNoLanguage     = protocolError("No such language")
	errTLSActive      = protocolError("TLS is active already")
	errTooLateUTF8    = protocolError("UTF8 must come before login")
	errForeign        = protocolError("This is a POP3 server")
	errInjected       = protocolError("Data after STLS")
)

func wrongArgs(name string) error  { return protocolError("Wrong arguments for " + name) }
func wrongState(name string) error { return protocolError(name + " is not valid now") }

// ending ends the session: its connection is lost, or must not be used any
// more. Nothing is said to the client about it.
type ending struct {
	reason Reason
	err    error
}

func (e *ending) Error() string {
	if e.err == nil {
		return "pop3: " + string(e.reason)
	}
	return "pop3: " + string(e.reason) + ": " + e.err.Error()
}

func (e *ending) Unwrap() error { return e.err }

// reply is what a client may know of err: the text after "-ERR ". Everything
// else about err is for the log. This is the only place that chooses a
// response code (RFC 2449 section 8, RFC 3206).
func reply(err error) string {
	var pe protocolError
	var ae *authn.Error
	var ce *maildrop.CommitError
	var soon *tooSoon
	var used *maildrop.InUseError
	switch {
	case errors.As(err, &pe):
		return string(pe)
	case errors.As(err, &ae):
		return replyAuth(ae)
	case errors.As(err, &soon):
		return "[LOGIN-DELAY] Log in again in " + strconv.FormatInt(seconds(soon.wait), 10) + " s" // RFC 2449 section 8.1.1
	case errors.As(err, &ce):
		return "Some deleted messages not removed" // words of RFC 1939 section 6
	case errors.As(err, &used):
		return "[IN-USE] " + replyInUse(used)
	case errors.Is(err, maildrop.ErrInUse):
		return "[IN-USE] Maildrop is in use by another session"
	case errors.Is(err, maildrop.ErrNoFolder):
		// not [AUTH], "a problem with the user's credentials" (RFC 3206 section
		// 4): a client would ask the user for another password
		return "[SYS/PERM] No such folder"
	case errors.Is(err, maildrop.ErrPermanent):
		return "[SYS/PERM] Maildrop cannot be used, ask the postmaster"
	case errors.Is(err, maildrop.ErrGone):
		return "[SYS/TEMP] Message was removed by another program"
	default:
		return "[SYS/TEMP] Maildrop is unavailable, try later"
	}
}

// replyInUse says since when, and to the same person from where: it helps him
// find the client that he has forgotten.
func replyInUse(e *maildrop.InUseError) string {
	text := "Maildrop is in use by another session since " + e.Since.UTC().Format("2006-01-02 15:04:05 UTC")
	if host, _, err := net.SplitHostPort(e.Remote); err == nil && e.Own {
		text += ", from " + printable(host, maxText/2)
	}
	return text
}

// replyAuth has one text for all refused credentials: it must not tell which
// names exist. Throttled was not checked, so it says nothing of the password.
func replyAuth(e *authn.Error) string {
	code, text := "[SYS/TEMP] ", "Login is unavailable, try later"
	switch e.Kind {
	case authn.UnknownUser, authn.Rejected, authn.Denied, authn.Expired:
		code, text = "[AUTH] ", "Authentication failed"
	case authn.Throttled:
		text = "Too many attempts, try later"
	case authn.Malformed:
		code, text = "", "Malformed authentication exchange"
	case authn.Cancelled:
		code, text = "", "Authentication cancelled"
	}
	if e.Text != "" {
		text = printable(e.Text, maxText)
	}
	return code + text
}

// maxText keeps "-ERR [SYS/TEMP] " with its text well under the 512 octets of
// RFC 2449 section 4.
const maxText = 400
